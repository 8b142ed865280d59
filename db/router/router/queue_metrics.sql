-- Purpose: as db/functions/queue_metrics.sql, of all shards that answer together.
set role farebox_owner;

create or replace function farebox.queue_metrics()
returns table (size bigint, oldest_age interval, ready bigint, delayed bigint, paused bigint, by_attempts json, dead bigint,
  dead_tuples bigint, oldest_xmin_age bigint)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
#variable_conflict use_column
declare
  v_at int;
  v_shard record;
  v_attempts jsonb := '{}';
begin
  size := 0;
  ready := 0;
  delayed := 0;
  paused := 0;
  dead := 0;
  dead_tuples := 0;
  for v_at in select distinct p.at from farebox.partitions as p order by p.at loop
    begin
      select m.* into v_shard from farebox._at_queue_metrics(v_at) as m;
    exception when others or query_canceled then
      perform farebox._skip_lost_shard(sqlstate, sqlerrm);
      continue;
    end;
    size := size + v_shard.size;
    oldest_age := greatest(oldest_age, v_shard.oldest_age);
    ready := ready + v_shard.ready;
    delayed := delayed + v_shard.delayed;
    paused := paused + v_shard.paused;
    dead := dead + v_shard.dead;
    dead_tuples := dead_tuples + v_shard.dead_tuples;
    oldest_xmin_age := greatest(oldest_xmin_age, v_shard.oldest_xmin_age);
    v_attempts := v_attempts || (
      select coalesce(jsonb_object_agg(a.key, a.value::bigint + coalesce((v_attempts ->> a.key)::bigint, 0)), '{}')
      from json_each_text(v_shard.by_attempts) as a);
  end loop;
  by_attempts := v_attempts::json;
  return next;
end
$$;

reset role;
