-- Purpose: metrics of the calls that sell: how many, how long, and how long the oldest of now has been at it.
-- Returns: one row for each sample: metric, labels, value. Totals need track_functions = pl, or pg_stat_statements; without they are left out.
--   Runs with the caller's rights: other logins' calls show to members of pg_monitor only.
set role farebox_owner;

create function farebox.metrics_batches()
returns table (metric text, labels jsonb, value double precision)
language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
-- Whoever watches must not stand in line: a table that is locked costs this group of metrics, not the whole scrape.
set lock_timeout = '1s'
as $$
declare
  v_functions constant text[] := array['create_tickets', 'create_ticket', 'enqueue_tickets', 'process_ticket_queue'];
  v_schema name;
begin
  return query
    select m.metric, jsonb_build_object('function', s.funcname), m.value
    from pg_stat_user_functions as s
    cross join lateral (values
      ('farebox_function_calls_total', s.calls::double precision),
      ('farebox_function_seconds_total', s.total_time / 1000)) as m (metric, value)
    where s.schemaname = 'farebox' and s.funcname = any (v_functions);

  return query
    with running as (
      select extract(epoch from clock_timestamp() - a.query_start)::double precision as seconds
      from pg_stat_activity as a
      where a.state = 'active' and a.datname = current_database() and a.pid <> pg_backend_pid()
        and a.query ~* 'farebox\.(create_tickets?|process_ticket_queue|apply_unapplied_payments)\M'
    )
    select 'farebox_batches_running', '{}'::jsonb, count(*)::double precision from running
    union all
    select 'farebox_batch_running_seconds', '{}', coalesce(max(seconds), 0) from running;

  select n.nspname into v_schema
  from pg_extension as e
  join pg_namespace as n on n.oid = e.extnamespace
  where e.extname = 'pg_stat_statements';
  if found then
    begin
      return query execute format($sql$
        with statements as (
          select substring(s.query from '(?i)farebox\.(\w+)') as function, s.calls, s.total_exec_time, s.max_exec_time, s.rows
          from %I.pg_stat_statements as s
          where s.toplevel and s.dbid = (select d.oid from pg_database as d where d.datname = current_database())
            and s.query ~* '^\s*select\M.*farebox\.\w+\s*\('
        )
        select m.metric, jsonb_build_object('function', s.function), m.value
        from (
          select s.function, sum(s.calls) as calls, sum(s.total_exec_time) as total, max(s.max_exec_time) as longest, sum(s.rows) as rows
          from statements as s where s.function = any ($1) group by s.function) as s
        cross join lateral (values
          ('farebox_statement_calls_total', s.calls::double precision),
          ('farebox_statement_rows_total', s.rows::double precision),
          ('farebox_statement_seconds_total', s.total / 1000),
          ('farebox_statement_seconds_max', s.longest / 1000)) as m (metric, value)
        $sql$, v_schema)
      using v_functions;
    exception when object_not_in_prerequisite_state then
      null;  -- the extension is there, but its library was not loaded with the server
    end;
  end if;
end
$$;

comment on function farebox.metrics_batches() is 'Metrics of the calls that sell tickets, for Prometheus';

reset role;
