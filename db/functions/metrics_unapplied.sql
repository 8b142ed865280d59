-- Purpose: metrics of the money that could not become tickets.
-- Returns: one row for each sample: metric, labels, value. Beyond 100,000 open payments the least recently tried stand for all.
set role farebox_owner;

create function farebox.metrics_unapplied()
returns table (metric text, labels jsonb, value double precision)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
-- Whoever watches must not stand in line: a table that is locked costs this group of metrics, not the whole scrape.
set lock_timeout = '1s'
as $$
begin
  return query
    with open as materialized (
      select u.reason, u.first_seen_at
      from farebox.unapplied_payments as u
      where u.resolved_at is null
      order by u.last_seen_at
      limit 100000
    )
    select 'farebox_unapplied_payments', jsonb_build_object('reason', o.reason), count(*)::double precision
    from open as o
    group by o.reason

    union all
    select 'farebox_unapplied_oldest_seconds', '{}', greatest(coalesce(extract(epoch from farebox._now() - min(o.first_seen_at)), 0), 0)::double precision
    from open as o;
end
$$;

comment on function farebox.metrics_unapplied() is 'Metrics of open unapplied payments by reason, for Prometheus';

reset role;
