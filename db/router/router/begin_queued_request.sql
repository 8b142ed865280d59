-- Purpose: as db/functions/begin_queued_request.sql and process_queued_request.sql: one at a time on each shard.
set role farebox_owner;

create or replace function farebox.begin_queued_request(p_unfinished_only boolean default false)
returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
declare
  v_at int;
  v_queue_id bigint;
begin
  for v_at in select t.at from farebox._shards_in_turn() as t(at) loop
    begin
      v_queue_id := farebox._at_begin_queued_request(v_at, p_unfinished_only);
      if v_queue_id is not null then
        return v_queue_id;
      end if;
    exception when others or query_canceled then
      perform farebox._find_lost(array[v_at], sqlstate, sqlerrm);
    end;
  end loop;
  return null;
end
$$;

create or replace function farebox.process_queued_request(p_queue_id bigint)
returns table (taken int, created int, duplicates int, conflicts int, rejected int, retried int, dead int)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
declare
  v_at int;
  v_counts record;
  v_created int := 0;
begin
  -- Where the request is: on the shard that numbered it, unless its partition has moved since.
  for v_at in select distinct p.at, p.shard = p_queue_id >> 48 as is_likely from farebox.partitions as p order by is_likely desc, p.at loop
    begin
      select c.* into v_counts from farebox._at_process_queued_request(v_at, p_queue_id) as c;
    exception when others or query_canceled then
      perform farebox._find_lost(array[v_at], sqlstate, sqlerrm);
      continue;
    end;
    continue when v_counts.taken = 0;
    if v_counts.rejected > 0 then
      v_created := farebox._retake_refused(v_at);
    end if;
    return query select v_counts.taken, v_counts.created + v_created, v_counts.duplicates, v_counts.conflicts,
      greatest(v_counts.rejected - v_created, 0), v_counts.retried, v_counts.dead;
    return;
  end loop;
  return query select 0, 0, 0, 0, 0, 0, 0;
end
$$;

reset role;
