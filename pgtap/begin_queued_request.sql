-- begin_queued_request: counts the next request's attempt before it is made.
begin;
select plan(24);

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

select is(farebox.begin_queued_request(), null, 'nothing waits');
select is((select last_value from farebox.ticket_queue_bell), 1::bigint, 'whoever found nothing wants to be woken');
create temp table ids as select i.id, i.ordinal from unnest(pg_temp.enqueue('pay-1', 'pay-2')) with ordinality as i(id, ordinal);
select is(farebox.begin_queued_request(), (select id from ids where ordinal = 1), 'the first in line');
select results_eq(
  $$select attempts::int, reason, ready_at >= farebox._now() + '100 ms', ready_at <= farebox._now() + '150 ms'
    from farebox.ticket_queue where id = (select id from ids where ordinal = 1)$$,
  $$values (1, 'unfinished' collate "C", true, true)$$, 'its attempt counts from now on; nobody else takes it for a while');
select is(farebox.begin_queued_request(), null, 'one at a time, so that nobody is blamed for another');
select is((select created from farebox.process_ticket_queue()), 1, 'whole batches go on meanwhile');
set local tap.now = '2025-06-01 08:00:01+00';
select is((select taken from farebox.process_ticket_queue()), 0, 'but leave alone what began and never ended');

-- Whoever began dies, three times ------------------------------------------------------------------------------

select cardinality(pg_temp.enqueue('pay-3'));
select is(farebox.begin_queued_request(true), (select id from ids where ordinal = 1), 'when the time is over it begins again');
select is((select created from farebox.process_ticket_queue()), 1, 'unlike what nobody has begun');
select results_eq($$select attempts::int, ready_at >= farebox._now() + '200 ms', ready_at <= farebox._now() + '300 ms' from farebox.ticket_queue$$,
  'values (2, true, true)', 'and rests twice as long');
set local tap.now = '2025-06-01 08:00:02+00';
select is(farebox.begin_queued_request(), (select id from ids where ordinal = 1), 'a third time');
set local tap.now = '2025-06-01 08:00:04+00';
select is(farebox.begin_queued_request(), (select id from ids where ordinal = 1), 'and then');
select results_eq('select taken, dead from farebox.process_queued_request((select id from ids where ordinal = 1))', 'values (1, 1)',
  'after three attempts that never ended it is given up');
select results_eq('select reason, resolved_at is null from farebox.unapplied_payments', $$values ('unfinished' collate "C", true)$$, 'with its reason');
select is((select outcome from farebox.apply_unapplied_payments()), 'created', 'and can be applied later');

-- A clock that is set back -------------------------------------------------------------------------------------

select cardinality(pg_temp.enqueue('pay-4', 'pay-5'));
select isnt(farebox.begin_queued_request(), null, 'one is begun');
set local tap.now = '2025-06-01 06:00:00+00';
select is((select created from farebox.process_queued_request(farebox.begin_queued_request())), 1, 'an attempt that seems to rest for hours holds up nobody');
select is((select created from farebox.process_queued_request(farebox.begin_queued_request())), 1, 'and is made again itself');

-- What is put back and blamed for nothing ----------------------------------------------------------------------

create function pg_temp.fail() returns trigger language plpgsql as $$ begin raise undefined_column; end $$;
create trigger fail before insert on farebox.tickets for each row when (new.monime_otp = 'BROKEN') execute function pg_temp.fail();
create function pg_temp.attempt(p_times int) returns void
language plpgsql as $$
begin
  for v_count in 1 .. p_times loop
    perform set_config('tap.now', (farebox._now() + interval '1 s')::text, true);
    perform farebox.process_queued_request(farebox.begin_queued_request());
  end loop;
end
$$;
select count(*) from farebox.enqueue_tickets(json_build_array(
  pg_temp.payment('pay-6', 1, '{"monime_otp": "BROKEN"}'), pg_temp.payment('pay-7', 1, '{"monime_otp": "BROKEN"}'), pg_temp.payment('pay-8')));
select pg_temp.attempt(60);
select results_eq('select request ->> ''monime_transaction_id'', attempts::int, reason from farebox.ticket_queue order by id',
  $$values ('pay-6', 0, 'error_42703' collate "C"), ('pay-7', 0, 'error_42703')$$, 'comes again and again, but not before those in line');

-- Privileges ---------------------------------------------------------------------------------------------------

select lives_ok(format('set local role %I; select farebox.begin_queued_request(); reset role', r.role), r.role || ' may')
from unnest(array['farebox_worker']) as r(role);
select throws_ok(format('set local role %I; select farebox.begin_queued_request()', r.role), '42501', null, r.role || ' may not')
from unnest(array['farebox_app', 'farebox_admin', 'farebox_company', 'pg_monitor']) as r(role);

select * from finish(true);
rollback;
