-- list_dead_requests: what the queue gave up or came to no ticket, longest not seen first.
begin;
select plan(20);

-- The clock stands still until the test sets it.
create or replace function farebox._now() returns timestamptz
language sql volatile parallel safe as $$ select current_setting('tap.now')::timestamptz $$;
set local tap.now = '2025-06-01 08:00:00+00';

insert into farebox.companies (id, name) values
  ('c0000000-0000-7000-8000-000000000001', 'Cotton Tree'),
  ('c0000000-0000-7000-8000-000000000002', 'Lion Mountain');
insert into farebox.routes (id, company_id, name, origin, destination, fare) values
  ('d0000000-0000-7000-8000-000000000001', 'c0000000-0000-7000-8000-000000000001', 'Freetown - Bo', 'Freetown', 'Bo', 5000),
  ('d0000000-0000-7000-8000-000000000002', 'c0000000-0000-7000-8000-000000000002', 'Lumley - Aberdeen', 'Lumley', 'Aberdeen', 500);

-- A payment of company 1 or 2, some of its fields replaced.
create function pg_temp.payment(p_id text, p_company int default 1, p_fields jsonb default '{}') returns json
language sql as $$
  select (jsonb_build_object('company_id', 'c0000000-0000-7000-8000-00000000000' || p_company,
    'route_id', 'd0000000-0000-7000-8000-00000000000' || p_company, 'passenger_phone', '+23276123456',
    'monime_transaction_id', p_id, 'monime_otp', '482913', 'amount', 5000) || p_fields)::json
$$;
-- Stores payments of company 1 under these ids; their queue ids.
create function pg_temp.enqueue(variadic p_ids text[]) returns bigint[]
language sql as $$
  select array(select e.queue_id from farebox.enqueue_tickets(
    (select json_agg(pg_temp.payment(i.id) order by i.ordinal) from unnest(p_ids) with ordinality as i(id, ordinal))) as e order by e.ordinal)
$$;
-- What a statement raises.
create function pg_temp.raised(p_statement text) returns text
language plpgsql as $$
declare
  v_hint text;
begin
  execute p_statement;
  return 'nothing';
exception when others then
  get stacked diagnostics v_hint = pg_exception_hint;
  return format('%s %s (%s)', sqlstate, sqlerrm, v_hint);
end
$$;

-- Dead for three reasons, a minute apart; and a payment that was only rejected.
select count(*) from farebox.enqueue_tickets(json_build_array(pg_temp.payment('pay-1'), pg_temp.payment('pay-1', 1, '{"amount": 7}')));
select is((select conflicts from farebox.process_ticket_queue()), 1, 'a conflict');
set local tap.now = '2025-06-01 08:01:00+00';
select count(*) from farebox.enqueue_tickets(json_build_array(
  pg_temp.payment('pay-2', 2, '{"monime_transaction_id": 5}'), pg_temp.payment('pay-3', 1, '{"monime_otp": ""}')));
select is((select rejected from farebox.process_ticket_queue()), 2, 'an id that is none, an OTP that is none');
insert into farebox.unapplied_payments (monime_transaction_id, company_id, request, reason, first_seen_at, last_seen_at)
values ('pay-4', 'c0000000-0000-7000-8000-000000000001', pg_temp.payment('pay-4'), 'error_22012', '2025-06-01 08:02:00+00', '2025-06-01 08:02:00+00');
create temp table keys as select 'queue:' || id as key, (row_number() over (order by id))::int as n from farebox.ticket_queue_dead;
insert into keys values ('payment:pay-4', 3);

select results_eq(
  'select k.n, l.company_id, l.monime_transaction_id, l.reason, l.detail, l.attempts, l.last_seen_at
    from farebox.list_dead_requests() with ordinality as l join keys as k using (key) order by l.ordinality',
  $$values
    (1, 'c0000000-0000-7000-8000-000000000001'::uuid, 'pay-1', 'conflict', 'amount', 1, '2025-06-01 08:00:00+00'::timestamptz),
    (2, 'c0000000-0000-7000-8000-000000000002', null, 'transaction_id_invalid', null, 1, '2025-06-01 08:01:00+00'),
    (3, 'c0000000-0000-7000-8000-000000000001', 'pay-4', 'error_22012', null, 1, '2025-06-01 08:02:00+00')$$,
  'each with its reason; not the payment that a rule rejected');
select is((select request ->> 'amount' from farebox.list_dead_requests(1)), '7', 'the request as it came');
select is((select string_agg(reason, ' ') from farebox.list_dead_requests(2)), 'conflict transaction_id_invalid', 'the first page');
select is((select string_agg(reason, ' ') from farebox.list_dead_requests(2, p_after_last_seen_at => '2025-06-01 08:01:00+00',
  p_after_key => (select key from keys where n = 2))), 'error_22012', 'the next');
select is((select string_agg(reason, ' ') from farebox.list_dead_requests(p_company_id => 'c0000000-0000-7000-8000-000000000001')), 'conflict error_22012',
  'of a company');
select is((select string_agg(reason, ' ') from farebox.list_dead_requests(p_transaction_id => ' pay-4')), 'error_22012', 'of a payment');
select is((select string_agg(reason, ' ') from farebox.list_dead_requests(p_reason => 'conflict')), 'conflict', 'for a reason');
select is((select outcome from farebox.apply_unapplied_payments(10, 'error_22012')), 'created', 'a payment that has its ticket');
select is((select count(*) from farebox.list_dead_requests()), 2::bigint, 'is not dead any more');
select is(pg_temp.raised(format('select farebox.list_dead_requests(%s)', c.p_limit)),
  format('TK003 the limit is %s (pass a limit from 1 to 1000)', c.p_limit), 'TK003: ' || c.p_limit)
from (values ('0'), ('-1'), ('1001'), ('null')) as c(p_limit);

-- Privileges ---------------------------------------------------------------------------------------------------

select lives_ok(format('set local role %I; select farebox.list_dead_requests(); reset role', r.role), r.role || ' may')
from unnest(array['farebox_admin']) as r(role);
select throws_ok(format('set local role %I; select farebox.list_dead_requests()', r.role), '42501', null, r.role || ' may not')
from unnest(array['farebox_app', 'farebox_worker', 'farebox_company', 'pg_monitor']) as r(role);

select * from finish(true);
rollback;
