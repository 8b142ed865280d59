-- drop_queued_requests: removes requests for good, waiting or dead; returns what was removed.
begin;
select plan(15);

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

insert into keys select 'queue:' || id, 4 from unnest(pg_temp.enqueue('pay-5')) as id;
select cardinality(pg_temp.enqueue('pay-6'));
select results_eq(
  $$select k.n, d.company_id, d.monime_transaction_id, d.reason, d.request ->> 'monime_transaction_id'
    from farebox.drop_queued_requests(array(select key from keys) || array['queue:999999', 'payment:pay-3', 'payment:none']) as d
    join keys as k using (key) order by k.n$$,
  $$values
    (1, 'c0000000-0000-7000-8000-000000000001'::uuid, 'pay-1', 'conflict', 'pay-1'),
    (2, 'c0000000-0000-7000-8000-000000000002', null, 'transaction_id_invalid', '5'),
    (3, 'c0000000-0000-7000-8000-000000000001', 'pay-4', 'error_22012', 'pay-4'),
    (4, 'c0000000-0000-7000-8000-000000000001', 'pay-5', null, 'pay-5')$$,
  'what was removed, whole');
select is(farebox.queue_size(), 1::bigint, 'what was not named stays');
select is((select count(*) from farebox.list_dead_requests()), 0::bigint, 'the dead are gone');
select results_eq('select monime_transaction_id from farebox.unapplied_payments', $$values ('pay-3' collate "C")$$,
  'a payment that a rule rejected is not the queue''s to drop');
select is_empty('select farebox.drop_queued_requests(array(select key from keys))', 'nothing is left to drop');
select throws_ok(format('select farebox.drop_queued_requests(%L)', c.keys), 'TK003', null, coalesce(c.keys, 'null'))
from (values (null), ('{7}'), ('{NULL}')) as c(keys);

-- Privileges ---------------------------------------------------------------------------------------------------

select lives_ok(format('set local role %I; select farebox.drop_queued_requests(''{}''); reset role', r.role), r.role || ' may')
from unnest(array['farebox_admin']) as r(role);
select throws_ok(format('set local role %I; select farebox.drop_queued_requests(''{}'')', r.role), '42501', null, r.role || ' may not')
from unnest(array['farebox_app', 'farebox_worker', 'farebox_company', 'pg_monitor']) as r(role);

select * from finish(true);
rollback;
