-- Purpose: the samples for Prometheus of each shard that answers, with its name as a label. metrics_server tells too which answer, and
--   how many workers there are: they connect here, what a shard sees of them is the router.
do $$
declare
  v_group text;
begin
  foreach v_group in array array['tickets', 'retries', 'batches', 'unapplied', 'codes', 'storage', 'server'] loop
    execute format(
      'create or replace function farebox.metrics_%s() returns table (metric text, labels jsonb, value double precision)
      language plpgsql stable security definer set search_path = pg_catalog, pg_temp set standard_conforming_strings = on as %L', v_group,
      format('
#variable_conflict use_column
declare
  v_shard record;
begin
  for v_shard in select distinct s.name, p.at from farebox.partitions as p join farebox.shards as s on s.shard = p.shard order by p.at loop
    begin
      return query
        select m.metric, m.labels || jsonb_build_object(''shard'', v_shard.name), m.value from farebox._at_metrics_%1$s(v_shard.at) as m%4$s;
      %2$s
    exception when others or query_canceled then
      perform farebox._skip_lost_shard(sqlstate, sqlerrm);
      %3$s
    end;
  end loop;
  %5$s
end', v_group,
        case when v_group = 'server' then
          'return query select ''farebox_shard_up'', jsonb_build_object(''shard'', v_shard.name), 1::double precision;' else '' end,
        case when v_group = 'server' then
          'return query select ''farebox_shard_up'', jsonb_build_object(''shard'', v_shard.name), 0::double precision;' else '' end,
        case when v_group = 'server' then ' where m.metric <> ''farebox_workers''' else '' end,
        case when v_group = 'server' then
          'return query
    select ''farebox_workers'', ''{}''::jsonb, count(*)::double precision
    from pg_stat_activity as a
    where a.application_name like ''farebox worker%'' and a.datname = current_database();' else '' end));
    execute format('alter function farebox.metrics_%s() owner to farebox_owner', v_group);
  end loop;
end
$$;
