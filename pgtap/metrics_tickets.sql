-- metrics_tickets: metrics of tickets and of the rows behind them, from numbers that PostgreSQL keeps anyway.
begin;
select plan(17);

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
select set_eq($$select labels ->> 'outcome' as outcome from farebox.metrics_tickets() where metric = 'farebox_ticket_outcomes_total'$$,
  array['created', 'duplicate', 'conflict', 'rejected'], 'answers by outcome');
select is_empty('select from farebox.metrics_tickets() where value < 0 or value is null', 'no value is negative, though no table was analyzed before');

-- What counts --------------------------------------------------------------------------------------------------

insert into farebox.companies (id, name) values
  ('c0000000-0000-7000-8000-000000000001', 'Cotton Tree'), ('c0000000-0000-7000-8000-000000000002', 'Lion Mountain');
insert into farebox.routes (id, company_id, name, origin, destination, fare) values
  ('d0000000-0000-7000-8000-000000000001', 'c0000000-0000-7000-8000-000000000001', 'Freetown - Bo', 'Freetown', 'Bo', 5000);
-- Payments from that number to that one, with fields replaced.
create function pg_temp.payments(p_from int, p_to int, p_fields jsonb default '{}') returns jsonb
language sql as $$
  select jsonb_agg(jsonb_build_object('company_id', 'c0000000-0000-7000-8000-000000000001',
    'route_id', 'd0000000-0000-7000-8000-000000000001', 'passenger_phone', '+23276123456',
    'monime_transaction_id', 'again-' || n, 'monime_otp', '482913', 'amount', 5000) || p_fields)
  from generate_series(p_from, p_to) as n
$$;
-- What a call adds to the counters, as this transaction sees them: duplicates, conflicts, rejections.
create function pg_temp.counted(p_batch jsonb) returns bigint[]
language plpgsql as $$
declare
  v_indexes constant regclass[] := array['farebox.idx_tally_duplicates', 'farebox.idx_tally_conflicts', 'farebox.idx_tally_rejections'];
  v_before bigint[] := array(select pg_stat_get_xact_tuples_returned(i) from unnest(v_indexes) with ordinality as u(i, n) order by n);
begin
  perform from farebox.create_tickets(p_batch::json);
  return array(select pg_stat_get_xact_tuples_returned(i) - v_before[n] from unnest(v_indexes) with ordinality as u(i, n) order by n);
end
$$;
select is(pg_temp.counted(pg_temp.payments(1, 300)), '{0,0,0}', 'new tickets count as rows');
select is(pg_temp.counted(pg_temp.payments(1, 300)), '{300,0,0}', 'a replay counts duplicates, more than there are marks');
select is(pg_temp.counted(pg_temp.payments(1, 250, '{"amount": 7}')), '{0,250,0}', 'and conflicts');
select is(pg_temp.counted(pg_temp.payments(1, 3, '{"company_id": "c0000000-0000-7000-8000-000000000002"}')), '{0,0,3}', 'and other companies'' payments');
select is(
  pg_temp.counted(pg_temp.payments(301, 310) || pg_temp.payments(305, 311) || pg_temp.payments(1, 2, '{"monime_otp": "ABCD"}')
    || pg_temp.payments(400, 403, '{"passenger_phone": "+23276***"}')),
  '{6,2,4}', 'a mixed batch counts each, repetitions within it too');
select is(pg_temp.counted('[]'), '{0,0,0}', 'nothing counts nothing');

-- Privileges ---------------------------------------------------------------------------------------------------

select lives_ok(format('set local role %I; select farebox.metrics_tickets(); reset role', r.role), r.role || ' may')
from unnest(array['farebox_worker', 'farebox_admin']) as r(role);
select throws_ok(format('set local role %I; select farebox.metrics_tickets()', r.role), '42501', null, r.role || ' may not')
from unnest(array['farebox_app', 'farebox_company', 'pg_monitor']) as r(role);

select * from finish(true);
rollback;
