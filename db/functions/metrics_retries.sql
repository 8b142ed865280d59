-- Purpose: metrics of what is tried again by the queue. What drivers send again they count themselves (farebox_driver_retries_total);
--   here it shows as duplicates, if the first try had made its ticket.
-- Returns: one row for each sample: metric, labels, value. Retries: requests put back after an error, one by one or together with their
--   batch, or begun again because the attempt before never ended; a batch that was rolled back as a whole (its worker died, the
--   server refused it) is taken anew and not counted. Counters: see metrics_tickets().
set role farebox_owner;

create function farebox.metrics_retries()
returns table (metric text, labels jsonb, value double precision)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
-- Whoever watches must not stand in line: a table that is locked costs this group of metrics, not the whole scrape.
set lock_timeout = '1s'
as $$
begin
  return query
    select 'farebox_queue_retries_total', '{}'::jsonb, pg_stat_get_tuples_returned('farebox.idx_tally_retries'::regclass)::double precision

    union all
    select 'farebox_queue_given_up_total', '{}', pg_stat_get_tuples_returned('farebox.idx_tally_given_up'::regclass)::double precision

    union all
    select 'farebox_queue_backoff', jsonb_build_object('reason', q.reason), count(*)::double precision
    from farebox.ticket_queue as q
    where q.ready_at is not null and q.reason is not null
    group by q.reason;
end
$$;

comment on function farebox.metrics_retries() is 'Metrics of queued requests that are tried again, for Prometheus';

reset role;
