-- enqueue_tickets: stores requests durably, to become tickets soon; the queue id of each.
begin;
select plan(27);

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

-- What is stored -----------------------------------------------------------------------------------------------

create temp table stored as
select * from farebox.enqueue_tickets(json_build_array(pg_temp.payment('pay-1'), pg_temp.payment('pay-2', 2), pg_temp.payment('pay-3')));
select results_eq('select ordinal from stored', array[1, 2, 3], 'a row for each element, in order');
select is((select array_agg(queue_id order by ordinal) from stored), (select array_agg(queue_id order by queue_id) from stored), 'ids rise');
select results_eq(
  'select q.request ->> ''monime_transaction_id'', q.company_id, q.enqueued_at, q.attempts::int from farebox.ticket_queue as q order by q.id',
  $$values ('pay-1', 'c0000000-0000-7000-8000-000000000001'::uuid, farebox._now(), 0),
    ('pay-2', 'c0000000-0000-7000-8000-000000000002', farebox._now(), 0), ('pay-3', 'c0000000-0000-7000-8000-000000000001', farebox._now(), 0)$$,
  'each request as it came, under its company');
select is((select count(*) from farebox.tickets), 0::bigint, 'no ticket yet');
select is((select sum(created)::int from farebox.process_ticket_queue()), 3, 'but soon');

-- A request stored twice is harmless ---------------------------------------------------------------------------

select isnt(pg_temp.enqueue('pay-1'), pg_temp.enqueue('pay-1'), 'the same request twice: two ids');
select results_eq('select taken, duplicates from farebox.process_ticket_queue()', 'values (2, 2)', 'and no second ticket');

-- Bad data is stored too, and harms nobody ---------------------------------------------------------------------

select is(
  (select count(queue_id) from farebox.enqueue_tickets(('[null, 7, "x", [], {}, {"company_id": 5}, {"company_id": "x", "a": "\u0000"},
    {"company_id": {"deep": [1]}}, {"amount": 1e400, "note": "\ud800"}, ' || pg_temp.payment('pay-4') || ']')::json)),
  10::bigint, 'whatever the element, it has its id');
select is((select count(*) from farebox.ticket_queue where company_id = 'c0000000-0000-7000-8000-000000000001'), 1::bigint,
  'among neighbours that cannot be read a good request still has its company');
select is(
  (select count(queue_id) from farebox.enqueue_tickets(('[' || repeat('[', 6000) || repeat(']', 6000) || ', ' || pg_temp.payment('pay-5') || ']')::json)),
  2::bigint, 'nested deeply');
select is((select sum(created)::int from farebox.process_ticket_queue()), 2, 'the good ones become tickets');
select is((select count(*) from farebox.list_dead_requests()), 10::bigint, 'the others are kept');
select is_empty('select farebox.enqueue_tickets(''[]'')', 'an empty batch: nothing');

-- Paused companies ---------------------------------------------------------------------------------------------

select is(farebox.pause_company_queue('c0000000-0000-7000-8000-000000000001'), 0::bigint, 'nothing waits, so nothing is paused');
select is(cardinality(pg_temp.enqueue('pay-6')), 1, 'a paused company''s request is stored');
select is((select taken from farebox.process_ticket_queue()), 0, 'and waits');

-- Workers that sleep -------------------------------------------------------------------------------------------

select is((select last_value from farebox.ticket_queue_bell), 1::bigint, 'a worker that found nothing wants to be woken');
select isnt(pg_temp.enqueue('pay-7'), null, 'the next producer');
select is((select last_value from farebox.ticket_queue_bell), 0::bigint, 'rings, and no other has to');

-- Misuse -------------------------------------------------------------------------------------------------------

select throws_ok('select farebox.enqueue_tickets(null)', 'TK001', 'the batch is not a JSON array', 'null');
select throws_ok('select farebox.enqueue_tickets(''{}'')', 'TK001', 'the batch is not a JSON array', 'no array');
select throws_ok('select farebox.enqueue_tickets((select json_agg(n) from generate_series(1, 10001) as n))', 'TK002', null, 'too long');

-- Privileges ---------------------------------------------------------------------------------------------------

select lives_ok(format('set local role %I; select farebox.enqueue_tickets(''[]''); reset role', r.role), r.role || ' may')
from unnest(array['farebox_app']) as r(role);
select throws_ok(format('set local role %I; select farebox.enqueue_tickets(''[]'')', r.role), '42501', null, r.role || ' may not')
from unnest(array['farebox_worker', 'farebox_admin', 'farebox_company', 'pg_monitor']) as r(role);

select * from finish(true);
rollback;
