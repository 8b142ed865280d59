-- Purpose: metrics of tables and indexes: size, dead rows, how often an index is used, how stale the statistics are, bloat.
-- Returns: one row for each sample: metric, labels, value. No table is read; bloat is estimated from statistics, as of the last analyze.
set role farebox_owner;

create function farebox.metrics_storage()
returns table (metric text, labels jsonb, value double precision)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
-- Whoever watches must not stand in line: a table that is locked costs this group of metrics, not the whole scrape.
set lock_timeout = '1s'
as $$
begin
  return query
    with relations as materialized (
      select c.oid, c.relname, c.relpages, c.reltuples, case c.relkind when 'i' then 'index' else 'table' end as kind,
        coalesce(x.indrelid, c.oid) as table_oid,
        coalesce(substring(array_to_string(c.reloptions, ',') from 'fillfactor=(\d+)')::int, case c.relkind when 'i' then 90 else 100 end) as fillfactor,
        case c.relkind when 'i' then x.indkey::int2[] else (
          select array_agg(a.attnum) from pg_attribute as a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped) end as columns
      from pg_class as c
      left join pg_index as x on x.indexrelid = c.oid
      where c.relnamespace = 'farebox'::regnamespace and c.relkind in ('r', 'i')
    ),
    widths as (
      select r.oid, count(w.avg_width) as known, sum(w.avg_width * (1 - w.null_frac)) as width
      from relations as r
      cross join lateral unnest(r.columns) as u (attnum)
      join pg_class as c on c.oid = r.table_oid
      join pg_attribute as a on a.attrelid = r.table_oid and a.attnum = u.attnum
      left join pg_stats as w on w.schemaname = 'farebox' and w.tablename = c.relname and w.attname = a.attname and not w.inherited
      group by r.oid
    ),
    -- A heap row: header of 24 bytes and line pointer of 4, aligned; an index entry: header of 8 and line pointer of 4, aligned.
    needed as (
      select r.oid, r.kind, r.relname, r.relpages,
        r.reltuples * (case r.kind when 'index' then 12 else 28 end + ceil(w.width / 8) * 8) / (8168 * r.fillfactor / 100.0) as pages
      from relations as r
      join widths as w on w.oid = r.oid
      where w.known = cardinality(r.columns) and r.relpages > 0 and r.reltuples >= 0
    )
    select 'farebox_relation_bytes', jsonb_build_object('relation', r.relname, 'kind', r.kind), pg_total_relation_size(r.oid)::double precision
    from relations as r
    where r.kind = 'index'
    union all
    select 'farebox_relation_bytes', jsonb_build_object('relation', r.relname, 'kind', r.kind), pg_table_size(r.oid)::double precision
    from relations as r
    where r.kind = 'table'

    union all
    select 'farebox_bloat_ratio', jsonb_build_object('relation', n.relname, 'kind', n.kind),
      greatest(1 - n.pages / n.relpages, 0)::double precision
    from needed as n

    union all
    select m.metric, jsonb_build_object('table', s.relname), m.value::double precision
    from pg_stat_all_tables as s
    cross join lateral (values
      ('farebox_dead_rows', s.n_dead_tup),
      ('farebox_live_rows', s.n_live_tup),
      ('farebox_rows_changed_since_analyze', s.n_mod_since_analyze)) as m (metric, value)
    where s.schemaname = 'farebox'

    union all
    select 'farebox_last_vacuum_timestamp_seconds', jsonb_build_object('table', s.relname),
      extract(epoch from greatest(s.last_vacuum, s.last_autovacuum))::double precision
    from pg_stat_all_tables as s
    where s.schemaname = 'farebox' and greatest(s.last_vacuum, s.last_autovacuum) is not null

    union all
    select 'farebox_index_scans_total', jsonb_build_object('index', s.indexrelname, 'table', s.relname), s.idx_scan::double precision
    from pg_stat_all_indexes as s
    where s.schemaname = 'farebox';
end
$$;

comment on function farebox.metrics_storage() is 'Metrics of tables, indexes and their bloat, for Prometheus';

reset role;
