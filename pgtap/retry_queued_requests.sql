-- retry_queued_requests: has requests in backoff and dead ones tried again now.
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
-- Processes until nothing is ready; the sums of the counts.
create function pg_temp.drain(p_limit int default 100) returns text
language plpgsql as $$
declare
  v_sum int[] := '{0,0,0,0,0,0,0}';
  v_counts record;
begin
  loop
    select * into v_counts from farebox.process_ticket_queue(p_limit);
    exit when v_counts.taken = 0;
    v_sum := array[v_sum[1] + v_counts.taken, v_sum[2] + v_counts.created, v_sum[3] + v_counts.duplicates, v_sum[4] + v_counts.conflicts,
      v_sum[5] + v_counts.rejected, v_sum[6] + v_counts.retried, v_sum[7] + v_counts.dead];
  end loop;
  return format('%s created, %s duplicates, %s conflicts, %s rejected, %s dead', v_sum[2], v_sum[3], v_sum[4], v_sum[5], v_sum[7]);
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

insert into keys select 'queue:' || id, 4 from unnest(pg_temp.enqueue('pay-5')) as id;
select is('queue:' || farebox.begin_queued_request(), (select key from keys where n = 4), 'one is in backoff');

create temp table retried as
select r.* from farebox.retry_queued_requests(
  array(select key from keys order by n) || array['queue:999999', 'payment:pay-3', 'payment:none']) as r;
select results_eq('select k.n, r.queue_id is not null from retried as r left join keys as k using (key) order by k.n, r.key',
  'values (1, true), (2, true), (3, true), (4, true), (null, false), (null, true), (null, false)',
  'each has its id from now on; what is not there has none');
select is((select queue_id from retried join keys using (key) where n = 4), (select substring(key from 7)::bigint from keys where n = 4),
  'one that waits keeps it');
select is((select sum(attempts) from farebox.ticket_queue), 0::bigint, 'attempts count from the start');
select is((select count(*) from farebox.ticket_queue_dead), 0::bigint, 'the dead are back in line');
select is((select reason from farebox.unapplied_payments where monime_transaction_id = 'pay-4' and resolved_at is null), 'error_22012',
  'a payment stays until it has its ticket');
select is(pg_temp.drain(), '2 created, 0 duplicates, 1 conflicts, 2 rejected, 0 dead', 'tried again');
select isnt((select resolved_at from farebox.unapplied_payments where monime_transaction_id = 'pay-4'), null, 'now it has');

-- Paused requests stay paused ----------------------------------------------------------------------------------

create temp table paused as select i.id from unnest(pg_temp.enqueue('pay-6')) as i(id);
select is(farebox.pause_company_queue('c0000000-0000-7000-8000-000000000001'), 1::bigint, 'paused');
select is((select count(r.queue_id) from farebox.retry_queued_requests(array(select 'queue:' || id from paused)) as r), 1::bigint, 'known');
select is((select taken from farebox.process_ticket_queue()), 0, 'but retrying does not resume');

-- Misuse -------------------------------------------------------------------------------------------------------

select is(pg_temp.raised('select farebox.retry_queued_requests(null)'),
  'TK003 a key is neither queue:<id> nor payment:<id> (pass keys as farebox.list_dead_requests() shows them)', 'null');
select throws_ok(format('select farebox.retry_queued_requests(%L)', c.keys), 'TK003', null, c.keys)
from (values ('{7}'), ('{queue:x}'), ('{queue:001}'), ('{queue:0}')) as c(keys);
select throws_ok($$select farebox.retry_queued_requests(array(select 'queue:' || n from generate_series(1, 10001) as n))$$, 'TK002', null, 'too many');

-- Privileges ---------------------------------------------------------------------------------------------------

select lives_ok(format('set local role %I; select farebox.retry_queued_requests(''{}''); reset role', r.role), r.role || ' may')
from unnest(array['farebox_admin']) as r(role);
select throws_ok(format('set local role %I; select farebox.retry_queued_requests(''{}'')', r.role), '42501', null, r.role || ' may not')
from unnest(array['farebox_app', 'farebox_worker', 'farebox_company', 'pg_monitor']) as r(role);

select * from finish(true);
rollback;
