-- Purpose: metrics of the server: connections against the limit, workers, locks, old transactions and snapshots, deadlocks, ids.
-- Returns: one row for each sample: metric, labels, value.
--   Runs with the caller's rights: ages and states of other logins' sessions show to members of pg_monitor only.
set role farebox_owner;

create function farebox.metrics_server()
returns table (metric text, labels jsonb, value double precision)
language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
-- Whoever watches must not stand in line: a table that is locked costs this group of metrics, not the whole scrape.
set lock_timeout = '1s'
as $$
begin
  return query
    with sessions as materialized (
      select a.pid, a.datname, a.application_name, a.wait_event_type, a.xact_start, a.backend_xmin, coalesce(a.state, 'unknown') as state
      from pg_stat_activity as a
      where a.backend_type = 'client backend'
    )
    select 'farebox_connections', jsonb_build_object('state', s.state), count(*)::double precision from sessions as s group by s.state

    union all
    select 'farebox_connections_limit', '{}'::jsonb,
      (current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
        - coalesce(current_setting('reserved_connections', true)::int, 0))::double precision

    union all
    select m.metric, '{}', m.value
    from (
      select
        count(*) filter (where s.application_name like 'farebox worker%' and s.datname = current_database()) as workers,
        count(*) filter (where s.wait_event_type = 'Lock') as blocked,
        coalesce(extract(epoch from clock_timestamp() - min(s.xact_start) filter (where s.pid <> pg_backend_pid())), 0) as oldest_transaction
      from sessions as s) as s
    cross join lateral (values
      ('farebox_workers', s.workers::double precision),
      ('farebox_blocked_sessions', s.blocked::double precision),
      ('farebox_oldest_transaction_seconds', s.oldest_transaction::double precision)) as m (metric, value)

    union all
    select 'farebox_oldest_snapshot_xids', '{}', coalesce(max(age(held.xmin)), 0)::double precision
    from (
      select s.backend_xmin from sessions as s where s.pid <> pg_backend_pid()
      union all
      select unnest(array[l.xmin, l.catalog_xmin]) from pg_replication_slots as l
      union all
      select p.transaction from pg_prepared_xacts as p) as held (xmin)

    union all
    select 'farebox_blocked_seconds', '{}',
      coalesce(extract(epoch from clock_timestamp() - min(l.waitstart)), 0)::double precision
    from pg_locks as l
    where not l.granted

    union all
    select 'farebox_prepared_transactions', '{}', count(*)::double precision from pg_prepared_xacts

    union all
    select m.metric, '{}', m.value
    from pg_stat_database as d
    cross join lateral (values
      ('farebox_commits_total', d.xact_commit::double precision),
      ('farebox_rollbacks_total', d.xact_rollback::double precision),
      ('farebox_deadlocks_total', d.deadlocks::double precision),
      ('farebox_blocks_read_total', d.blks_read::double precision),
      ('farebox_blocks_hit_total', d.blks_hit::double precision)) as m (metric, value)
    where d.datname = current_database()

    union all
    select 'farebox_oldest_xid_age', '{}', age(d.datfrozenxid)::double precision
    from pg_database as d
    where d.datname = current_database()

    union all
    select 'farebox_slot_retained_bytes', jsonb_build_object('slot', l.slot_name), pg_wal_lsn_diff(pg_current_wal_lsn(), l.restart_lsn)::double precision
    from pg_replication_slots as l
    where not pg_is_in_recovery() and l.restart_lsn is not null;
end
$$;

comment on function farebox.metrics_server() is 'Metrics of connections, locks, snapshots and transaction ids, for Prometheus';

reset role;
