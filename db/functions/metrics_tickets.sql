-- Purpose: metrics of what became of payments, from numbers that PostgreSQL keeps: selling writes none of them.
-- Returns: one row for each sample, for Prometheus: metric, labels, value. Counters include what was rolled back, lag by a second or, in
--   a long transaction, until its end, and start anew when statistics are reset, the server crashes or a replica is promoted.
set role farebox_owner;

create function farebox.metrics_tickets()
returns table (metric text, labels jsonb, value double precision)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
-- Whoever watches must not stand in line: a table that is locked costs this group of metrics, not the whole scrape.
set lock_timeout = '1s'
as $$
begin
  return query
    select 'farebox_rows_written_total', jsonb_build_object('table', s.relname, 'operation', o.operation), o.rows::double precision
    from pg_stat_all_tables as s
    cross join lateral (values ('insert', s.n_tup_ins), ('update', s.n_tup_upd), ('delete', s.n_tup_del)) as o (operation, rows)
    where s.schemaname = 'farebox'

    union all
    select 'farebox_ticket_outcomes_total', jsonb_build_object('outcome', o.outcome), o.answers::double precision
    from (values
      ('created', pg_stat_get_tuples_inserted('farebox.tickets'::regclass)),
      ('duplicate', pg_stat_get_tuples_returned('farebox.idx_tally_duplicates'::regclass)),
      ('conflict', pg_stat_get_tuples_returned('farebox.idx_tally_conflicts'::regclass)),
      ('rejected', pg_stat_get_tuples_returned('farebox.idx_tally_rejections'::regclass))) as o (outcome, answers)

    union all
    -- -1 is what a table has that was never analyzed.
    select 'farebox_rows_estimate', jsonb_build_object('table', c.relname), greatest(c.reltuples, 0)::double precision
    from pg_class as c
    where c.relnamespace = 'farebox'::regnamespace and c.relkind in ('r', 'p')

    union all
    select 'farebox_tickets_pending_estimate', '{}', greatest(c.reltuples, 0)::double precision
    from pg_class as c
    where c.oid = 'farebox.idx_tickets_pending'::regclass

    union all
    -- Ids are in order of time: one look at the end of the index.
    select 'farebox_last_ticket_timestamp_seconds', '{}', extract(epoch from t.created_at)::double precision
    from (select t.created_at from farebox.tickets as t order by t.id desc limit 1) as t;
end
$$;

comment on function farebox.metrics_tickets() is 'Metrics of tickets and of the rows behind them, for Prometheus';

reset role;
