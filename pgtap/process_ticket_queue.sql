-- process_ticket_queue: claims queued requests, makes their tickets and settles them, in one transaction.
begin;
select plan(51);

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
-- Tickets with this OTP cannot be written.
create function pg_temp.poison() returns trigger
language plpgsql as $$ begin raise division_by_zero using message = 'poison'; end $$;
create trigger poison before insert on farebox.tickets
for each row when (new.monime_otp = 'POISON') execute function pg_temp.poison();
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

-- Outcomes -----------------------------------------------------------------------------------------------------

select results_eq('select * from farebox.process_ticket_queue()', 'values (0, 0, 0, 0, 0, 0, 0)', 'nothing to do: one row of zeros');
select count(*) from farebox.enqueue_tickets(json_build_array(
  pg_temp.payment('pay-1'), pg_temp.payment('pay-1'), pg_temp.payment('pay-1', 1, '{"amount": 1, "passenger_phone": "+23276000000"}'),
  pg_temp.payment('pay-2', 1, '{"amount": 0}'), pg_temp.payment('pay-1', 2), pg_temp.payment(' '), 'null'::json));
select results_eq('select * from farebox.process_ticket_queue()', 'values (7, 1, 1, 1, 4, 0, 0)',
  'created, duplicate, conflict, rejected: counted, and done');
select is(farebox.queue_size(), 0::bigint, 'nothing waits any more');
select results_eq('select reason, detail, monime_transaction_id from farebox.ticket_queue_dead order by id',
  $$values ('conflict' collate "C", 'passenger_phone, amount', 'pay-1' collate "C"), ('transaction_id_unavailable', null, 'pay-1'),
    ('transaction_id_invalid', null, null), ('transaction_id_invalid', null, null)$$,
  'what create_tickets keeps nowhere is kept here');
select results_eq('select monime_transaction_id, reason from farebox.unapplied_payments', $$values ('pay-2' collate "C", 'amount_invalid' collate "C")$$,
  'a rejected payment is an unapplied one');
select count(*) from farebox.enqueue_tickets(json_build_array(pg_temp.payment('pay-1', 2), pg_temp.payment('pay-1', 2)));
select is((select taken from farebox.process_ticket_queue()), 2, 'redelivered twice');
select is((select times from farebox.ticket_queue_dead where reason = 'transaction_id_unavailable'), 3, 'what is kept already is counted, not kept again');

-- Order --------------------------------------------------------------------------------------------------------

select cardinality(pg_temp.enqueue(variadic array(select 'old-' || n from generate_series(1, 5) as n)));
select results_eq('select taken, created from farebox.process_ticket_queue(3)', 'values (3, 3)', 'as many as the limit says');
select results_eq($$select monime_transaction_id from farebox.tickets where monime_transaction_id like 'old-%' order by 1$$,
  $$values ('old-1' collate "C"), ('old-2'), ('old-3')$$, 'oldest first');
select cardinality(pg_temp.enqueue(variadic array(select 'old-' || n from generate_series(6, 200) as n)));
select count(*) from farebox.enqueue_tickets(json_build_array(pg_temp.payment('other', 2)));
select is((select created from farebox.process_ticket_queue(10)), 10, 'a company with many requests, another with one');
select ok(exists (select from farebox.tickets where monime_transaction_id = 'other'), 'the one does not wait behind the many');
select is(pg_temp.drain(), '188 created, 0 duplicates, 0 conflicts, 0 rejected, 0 dead', 'in the end all are done');

-- Poison -------------------------------------------------------------------------------------------------------

select count(*) from farebox.enqueue_tickets((select json_agg(pg_temp.payment('mixed-' || n, 1, case n when 7 then '{"monime_otp": "POISON"}' else '{}' end::jsonb))
  from generate_series(1, 20) as n));
select results_eq('select taken, retried, dead from farebox.process_ticket_queue()', 'values (20, 20, 0)', 'a batch with poison in it is put back');
select is((select max(attempts) from farebox.ticket_queue), 0::smallint, 'nobody is blamed');
select is(pg_temp.drain(), '19 created, 0 duplicates, 0 conflicts, 0 rejected, 0 dead', 'tried in half the company, again and again, the others come through');
select results_eq('select request ->> ''monime_transaction_id'', attempts, reason from farebox.ticket_queue',
  $$values ('mixed-7', 1::smallint, 'error_22012' collate "C")$$, 'the poison alone has failed');
select results_eq('select ready_at >= farebox._now() + ''100 ms'', ready_at <= farebox._now() + ''150 ms'' from farebox.ticket_queue',
  'values (true, true)', 'and rests for 100 ms and some more by chance');
set local tap.now = '2025-06-01 08:00:00.099+00';
select is((select taken from farebox.process_ticket_queue()), 0, 'not before');
set local tap.now = '2025-06-01 08:00:00.15+00';
select cardinality(pg_temp.enqueue('meanwhile'));
select is(pg_temp.drain(), '1 created, 0 duplicates, 0 conflicts, 0 rejected, 0 dead', 'its second attempt holds up nobody');
select results_eq('select attempts, ready_at >= farebox._now() + ''200 ms'', ready_at <= farebox._now() + ''300 ms'' from farebox.ticket_queue',
  'values (2::smallint, true, true)', 'twice as long');
set local tap.now = '2025-06-01 08:00:00.45+00';
select results_eq('select * from farebox.process_ticket_queue()', 'values (1, 0, 0, 0, 0, 0, 1)', 'the third attempt is the last');
select is(farebox.queue_size(), 0::bigint, 'it waits no more');
select results_eq($$select monime_transaction_id, company_id, reason, request ->> 'monime_otp' from farebox.unapplied_payments where resolved_at is null and reason like 'error%'$$,
  $$values ('mixed-7' collate "C", 'c0000000-0000-7000-8000-000000000001'::uuid, 'error_22012' collate "C", 'POISON')$$,
  'the payment is kept with its reason');
drop trigger poison on farebox.tickets;
select is((select outcome from farebox.apply_unapplied_payments(10, 'error_22012')), 'created', 'and can be applied later');

-- Poison that has no place among the payments ------------------------------------------------------------------

create trigger poison before insert on farebox.unapplied_payments
for each row when (new.reason = 'otp_invalid') execute function pg_temp.poison();
select count(*) from farebox.enqueue_tickets(json_build_array(pg_temp.payment('pay-9', 1, '{"monime_otp": "?"}')));
select results_eq('select taken, retried from farebox.process_ticket_queue()', 'values (1, 1)', 'a rejection that cannot be kept');
set local tap.now = '2025-06-01 09:00:00+00';
select results_eq('select taken, retried from farebox.process_ticket_queue()', 'values (1, 1)', 'is tried again');
insert into farebox.tickets (company_id, route_id, amount, commission_rate, monime_transaction_id, passenger_phone, monime_otp) values
  ('c0000000-0000-7000-8000-000000000002', 'd0000000-0000-7000-8000-000000000002', 1, 0, 'pay-9', '+23276123456', '482913');
create function pg_temp.break() returns trigger language plpgsql as $$ begin raise division_by_zero; end $$;
create trigger break before insert or update on farebox.ticket_queue_dead
for each row when (new.reason = 'transaction_id_unavailable') execute function pg_temp.break();
set local tap.now = '2025-06-01 10:00:00+00';
select throws_ok('select farebox.process_ticket_queue()', '22012', null, 'when not even that can be kept, all is put back');
select is(farebox.queue_size(), 1::bigint, 'it is still there');
drop trigger break on farebox.ticket_queue_dead;
drop trigger poison on farebox.unapplied_payments;
select is(pg_temp.drain(), '0 created, 0 duplicates, 0 conflicts, 1 rejected, 0 dead', 'and ends once it can');

-- What is nobody's fault ---------------------------------------------------------------------------------------

create function pg_temp.full() returns trigger language plpgsql as $$ begin raise disk_full; end $$;
create trigger disk before insert on farebox.tickets for each row execute function pg_temp.full();
select cardinality(pg_temp.enqueue('pay-10'));
select throws_ok('select farebox.process_ticket_queue()', '53100', null, 'a full disk is told to the caller');
select results_eq('select attempts from farebox.ticket_queue', array[0::smallint], 'and counts against no request');
drop trigger disk on farebox.tickets;
select is(pg_temp.drain(), '1 created, 0 duplicates, 0 conflicts, 0 rejected, 0 dead', 'which goes through later');
select is(farebox.record_missing_transactions(), 1, 'the ticket made by hand gets its record');
select is_empty('select * from farebox.verify()', 'every invariant holds');

-- Poison that comes by ways of its own -------------------------------------------------------------------------

create function pg_temp.insist() returns trigger language plpgsql as $$ begin assert false; end $$;
create trigger insist before insert on farebox.tickets for each row when (new.monime_otp = 'ASSERT') execute function pg_temp.insist();
select count(*) from farebox.enqueue_tickets((format('[%s, "note": %s%s}, %s]',
  left(pg_temp.payment('pay-11', 1, '{"monime_otp": "ASSERT"}')::text, -1), repeat('[', 6000), repeat(']', 6000), pg_temp.payment('pay-12')))::json);
-- Whoever processes it may have less room for what is nested than whoever stored it.
set local max_stack_depth = '400kB';
select is(pg_temp.drain(), '1 created, 0 duplicates, 0 conflicts, 0 rejected, 0 dead', 'a failed assertion holds up nobody');
set local tap.now = '2025-06-01 11:00:00+00';
select results_eq('select taken, retried from farebox.process_ticket_queue()', 'values (1, 1)', 'its second attempt');
set local tap.now = '2025-06-01 12:00:00+00';
select results_eq('select taken, dead from farebox.process_ticket_queue()', 'values (1, 1)', 'its third');
reset max_stack_depth;
select results_eq($$select reason, request ->> 'monime_otp' from farebox.unapplied_payments where monime_transaction_id = 'pay-11'$$,
  $$values ('error_P0004' collate "C", 'ASSERT')$$, 'and it is kept, nested or not');

create function pg_temp.wait() returns trigger language plpgsql as $$ begin raise lock_not_available; end $$;
create trigger wait before insert on farebox.tickets for each row when (new.monime_otp = 'LOCKED') execute function pg_temp.wait();
select count(*) from farebox.enqueue_tickets(json_build_array(pg_temp.payment('pay-13', 1, '{"monime_otp": "LOCKED"}'), pg_temp.payment('pay-14')));
select throws_ok('select farebox.process_ticket_queue()', '55P03', null, 'what cannot be locked at once is told to the caller');
set local lock_timeout = '1min';
select is(pg_temp.drain(), '1 created, 0 duplicates, 0 conflicts, 0 rejected, 0 dead', 'but where callers wait for locks, and not for ever, one that waits holds up nobody');
select results_eq('select attempts::int, reason from farebox.ticket_queue', $$values (0, 'error_55P03' collate "C")$$, 'and is not blamed');
set local tap.now = '2025-06-01 13:00:00+00';
drop trigger wait on farebox.tickets;
select is(pg_temp.drain(), '1 created, 0 duplicates, 0 conflicts, 0 rejected, 0 dead', 'it goes through later');

-- Misuse -------------------------------------------------------------------------------------------------------

select is(pg_temp.raised(format('select farebox.process_ticket_queue(%s)', c.p_limit)),
  format('TK003 the limit is %s (pass a limit from 1 to 10000)', c.p_limit), 'TK003: ' || c.p_limit)
from (values ('0'), ('-1'), ('10001'), ('null')) as c(p_limit);

-- Privileges ---------------------------------------------------------------------------------------------------

select lives_ok(format('set local role %I; select farebox.process_ticket_queue(); reset role', r.role), r.role || ' may')
from unnest(array['farebox_worker']) as r(role);
select throws_ok(format('set local role %I; select farebox.process_ticket_queue()', r.role), '42501', null, r.role || ' may not')
from unnest(array['farebox_app', 'farebox_admin', 'farebox_company', 'pg_monitor']) as r(role);

select * from finish(true);
rollback;
