-- metrics_tickets: metrics of tickets and of the rows behind them, from numbers that PostgreSQL keeps anyway.
begin;
select plan(11);

select is_empty($$select * from farebox.metrics_tickets() where metric = 'farebox_last_ticket_timestamp_seconds'$$, 'no ticket, no time of the last');
insert into farebox.tickets (id, company_id, route_id, passenger_phone, monime_transaction_id, monime_otp, amount, commission_rate, created_at)
select format('e0000000-0000-7000-8000-00000000000%s', n)::uuid, farebox._uuid_v7(), farebox._uuid_v7(), '+23276123456', 'pay-' || n, '482913', 1, 0,
  '2025-06-01 08:00:00+00'::timestamptz + n * interval '1 second'
from generate_series(1, 3) as n;
select results_eq($$select value from farebox.metrics_tickets() where metric = 'farebox_last_ticket_timestamp_seconds'$$,
  array[extract(epoch from '2025-06-01 08:00:03+00'::timestamptz)::double precision], 'the time of the last ticket');
select set_eq($$select labels ->> 'table' as name, labels ->> 'operation' as operation from farebox.metrics_tickets() where metric = 'farebox_rows_written_total'$$,
  $$select c.relname::text as name, o.operation from pg_class as c cross join unnest(array['insert', 'update', 'delete']) as o(operation)
    where c.relnamespace = 'farebox'::regnamespace and c.relkind = 'r'$$, 'the rows written to each table, by operation');
analyze farebox.tickets;
select results_eq($$select value from farebox.metrics_tickets()
    where metric = 'farebox_rows_estimate' and labels = '{"table": "tickets"}' or metric = 'farebox_tickets_pending_estimate' order by metric$$,
  array[3::double precision, 3], 'how many tickets there are, and how many are pending, as of the last analyze');
select isnt_empty($$select from farebox.metrics_tickets() where metric = 'farebox_tickets_found_again_total'$$, 'how often a payment came again');
select is_empty('select from farebox.metrics_tickets() where value < 0 or value is null', 'no value is negative, though no table was analyzed before');

-- Privileges ---------------------------------------------------------------------------------------------------

select lives_ok(format('set local role %I; select farebox.metrics_tickets(); reset role', r.role), r.role || ' may')
from unnest(array['farebox_worker', 'farebox_admin']) as r(role);
select throws_ok(format('set local role %I; select farebox.metrics_tickets()', r.role), '42501', null, r.role || ' may not')
from unnest(array['farebox_app', 'farebox_company', 'pg_monitor']) as r(role);

select * from finish(true);
rollback;
