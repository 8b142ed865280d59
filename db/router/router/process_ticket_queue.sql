-- Purpose: as db/functions/process_ticket_queue.sql: one batch of one shard, another one each time. A lost shard's queue waits.
set role farebox_owner;

-- The shards in the order in which a worker asks them, beginning with another one each time; without those taken for lost.
create or replace function farebox._shards_in_turn()
returns setof int
language plpgsql volatile security invoker
as $$
declare
  v_turn bigint := nextval('farebox.queue_turn');
  v_ats int[] := array(select distinct p.at from farebox.partitions as p order by p.at);
  v_down int[] := farebox._shards_down();
begin
  return query
    select a.at
    from unnest(v_ats) with ordinality as a(at, place)
    where a.at <> all (v_down)
    order by (a.place + v_turn) % cardinality(v_ats);
end
$$;
comment on function farebox._shards_in_turn() is 'Internal: the shards in the order in which a worker asks them';

create or replace function farebox.process_ticket_queue(p_limit int default 100)
returns table (taken int, created int, duplicates int, conflicts int, rejected int, retried int, dead int)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
declare
  v_at int;
  v_counts record;
begin
  perform farebox._check_limit(p_limit, 10000);

  for v_at in select t.at from farebox._shards_in_turn() as t(at) loop
    begin
      select c.* into v_counts from farebox._at_process_ticket_queue(v_at, p_limit) as c;
      if v_counts.taken > 0 then
        return query select v_counts.taken, v_counts.created, v_counts.duplicates, v_counts.conflicts, v_counts.rejected,
          v_counts.retried, v_counts.dead;
        return;
      end if;
    exception when others or query_canceled then
      -- What the shard had taken is put back there; the others go on.
      perform farebox._find_lost(array[v_at], sqlstate, sqlerrm);
    end;
  end loop;
  -- From now on whoever enqueues here rings.
  if (select b.last_value from farebox.ticket_queue_bell as b) = 0 then
    perform setval('farebox.ticket_queue_bell', 1);
  end if;
  return query select 0, 0, 0, 0, 0, 0, 0;
end
$$;

reset role;
