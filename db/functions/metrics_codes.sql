-- Purpose: metrics of payment codes: how many, how many are nearly spent (90 % and more), how many are past their end and still called active.
-- Returns: one row for each sample: metric, labels, value. Reads payment_codes once.
set role farebox_owner;

create function farebox.metrics_codes()
returns table (metric text, labels jsonb, value double precision)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
-- Whoever watches must not stand in line: a table that is locked costs this group of metrics, not the whole scrape.
set lock_timeout = '1s'
as $$
declare
  v_now timestamptz := farebox._now();
begin
  return query
    with counted as (
      select
        count(*) filter (where k.status = 'active') as active,
        count(*) filter (where k.status = 'expired') as expired,
        count(*) filter (where k.status = 'cancelled') as cancelled,
        count(*) filter (where k.status = 'active' and k.used_tickets >= 0.9 * k.total_tickets) as nearly_spent,
        count(*) filter (where k.status = 'active' and k.expires_at <= v_now) as overdue
      from farebox.payment_codes as k
    )
    select m.metric, m.labels, m.value::double precision
    from counted as c
    cross join lateral (values
      ('farebox_payment_codes', '{"status": "active"}'::jsonb, c.active),
      ('farebox_payment_codes', '{"status": "expired"}', c.expired),
      ('farebox_payment_codes', '{"status": "cancelled"}', c.cancelled),
      ('farebox_payment_codes_nearly_spent', '{}', c.nearly_spent),
      ('farebox_payment_codes_overdue', '{}', c.overdue)) as m (metric, labels, value);
end
$$;

comment on function farebox.metrics_codes() is 'Metrics of payment codes and of those near their limit, for Prometheus';

reset role;
