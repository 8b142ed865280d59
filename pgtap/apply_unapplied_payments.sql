-- apply_unapplied_payments: tries kept payments again, those first that were tried longest ago.
begin;
select plan(27);

create function pg_temp.at(p_time text) returns void
language plpgsql as $do$
begin
  execute format($$create or replace function farebox._now() returns timestamptz language sql volatile parallel safe
    as 'select ''2025-06-01 %s+00''::timestamptz'$$, p_time);
end
$do$;
-- A payment that becomes a ticket, some of its fields replaced.
create function pg_temp.payment(p_fields jsonb default '{}') returns json
language sql stable as $$
  select (jsonb_build_object(
    'company_id', 'c0000000-0000-7000-8000-000000000001',
    'route_id', 'd0000000-0000-7000-8000-000000000001',
    'passenger_phone', '+23276123456',
    'monime_otp', '482913',
    'amount', 5000) || p_fields)::json
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

select is_empty('select * from farebox.apply_unapplied_payments()', 'nothing is unapplied: nothing is tried');

-- Four payments that arrive before their company, route and code are known, one of them masked.
select pg_temp.at('08:01');
select farebox.create_tickets(json_build_array(pg_temp.payment('{"monime_transaction_id": "pay-b"}')));
select pg_temp.at('08:02');
select farebox.create_tickets(json_build_array(pg_temp.payment('{"monime_transaction_id": " pay-a ", "payment_code": "CODE"}')));
select pg_temp.at('08:03');
select farebox.create_tickets(json_build_array(pg_temp.payment('{"monime_transaction_id": "pay-d", "passenger_phone": "+23276***456"}')));
select farebox.create_tickets(json_build_array(pg_temp.payment('{"monime_transaction_id": "pay-c", "payment_code": "CODE"}')));
select pg_temp.at('09:00');

-- Still rejected -----------------------------------------------------------------------------------------------

select results_eq(
  'select ordinal, monime_transaction_id, outcome, reason, ticket_id, transaction_recorded from farebox.apply_unapplied_payments()',
  $$values
    (1, 'pay-b', 'rejected', 'company_not_found', null::uuid, false),
    (2, ' pay-a ', 'rejected', 'company_not_found', null, false),
    (3, 'pay-c', 'rejected', 'company_not_found', null, false),
    (4, 'pay-d', 'rejected', 'phone_invalid', null, false)$$,
  'each is tried, the one tried longest ago first, equals by their id');
select results_eq(
  $$select monime_transaction_id collate "default", attempts, to_char(first_seen_at at time zone 'UTC', 'HH24:MI'),
      to_char(last_seen_at at time zone 'UTC', 'HH24:MI'), resolved_at is null
    from farebox.unapplied_payments order by monime_transaction_id$$,
  $$values ('pay-a', 2, '08:02', '09:00', true), ('pay-b', 2, '08:01', '09:00', true), ('pay-c', 2, '08:03', '09:00', true),
    ('pay-d', 2, '08:03', '09:00', true)$$,
  'another attempt is counted');

-- Success ------------------------------------------------------------------------------------------------------

insert into farebox.companies (id, name) values ('c0000000-0000-7000-8000-000000000001', 'Cotton Tree');
insert into farebox.routes (id, company_id, name, origin, destination, fare) values
  ('d0000000-0000-7000-8000-000000000001', 'c0000000-0000-7000-8000-000000000001', 'Freetown - Bo', 'Freetown', 'Bo', 5000);
insert into farebox.payment_codes (company_id, code, total_tickets) values ('c0000000-0000-7000-8000-000000000001', 'CODE', 1);
select pg_temp.at('10:00');

select results_eq(
  $$select monime_transaction_id, outcome from farebox.apply_unapplied_payments(p_reason => 'phone_invalid')$$,
  $$values ('pay-d', 'rejected')$$,
  'only those rejected for a reason');
select is_empty($$select * from farebox.apply_unapplied_payments(p_reason => 'no such reason')$$, 'a reason that none has');
select results_eq(
  $$select monime_transaction_id, concat_ws(' ', outcome, reason), transaction_recorded from farebox.apply_unapplied_payments(2)$$,
  $$values (' pay-a ', 'created', true), ('pay-b', 'created', true)$$,
  'no more than the limit; what was tried last waits');
select results_eq(
  $$select monime_transaction_id, concat_ws(' ', outcome, reason) from farebox.apply_unapplied_payments(2)$$,
  $$values ('pay-c', 'rejected code_exhausted'), ('pay-d', 'rejected phone_invalid')$$,
  'those with a ticket are not tried again');
select results_eq(
  $$select u.monime_transaction_id collate "default", u.reason collate "default", u.attempts,
      to_char(u.last_seen_at at time zone 'UTC', 'HH24:MI'), to_char(u.resolved_at at time zone 'UTC', 'HH24:MI'), t.id = u.ticket_id
    from farebox.unapplied_payments as u
    left join farebox.tickets as t on t.monime_transaction_id = u.monime_transaction_id
    order by u.monime_transaction_id$$,
  $$values
    ('pay-a', 'company_not_found', 2, '09:00', '10:00', true),
    ('pay-b', 'company_not_found', 2, '09:00', '10:00', true),
    ('pay-c', 'code_exhausted', 3, '10:00', null, null),
    ('pay-d', 'phone_invalid', 4, '10:00', null, null)$$,
  'a success resolves the row, a rejection is counted under its new reason');

-- Replay and conflict ------------------------------------------------------------------------------------------

-- Rows left open although the payment has its ticket: as if the ticket had come from a caller of the same moment.
update farebox.unapplied_payments set resolved_at = null, ticket_id = null where monime_transaction_id in ('pay-a', 'pay-b');
update farebox.unapplied_payments set request = pg_temp.payment('{"monime_transaction_id": "pay-b", "amount": 1}')
where monime_transaction_id = 'pay-b';
select results_eq(
  $$select t.monime_transaction_id, t.outcome, t.ticket_id is not null, t.existing_ticket_id is not null, t.differing::text
    from farebox.apply_unapplied_payments(p_reason => 'company_not_found') as t$$,
  $$values (' pay-a ', 'duplicate', true, false, null::text), ('pay-b', 'conflict', false, true, '{amount}')$$,
  'payments that have their ticket are duplicates or conflicts');
select is_empty($$select * from farebox.unapplied_payments where monime_transaction_id in ('pay-a', 'pay-b')
    and (resolved_at is null or ticket_id is null)$$, 'which resolves their rows too');
select is((select used_tickets from farebox.payment_codes), 1, 'no use is counted twice');
select is_empty('select * from farebox.verify()', 'every invariant holds');

-- Poison -------------------------------------------------------------------------------------------------------

-- Tickets with this OTP cannot be written.
create function pg_temp.poison() returns trigger
language plpgsql as $$ begin raise division_by_zero using message = 'poison'; end $$;
create trigger poison before insert on farebox.tickets
for each row when (new.monime_otp = 'POISON') execute function pg_temp.poison();
update farebox.companies set status = 'suspended';
select pg_temp.at('11:00');
select farebox.create_tickets(json_build_array(
  pg_temp.payment('{"monime_transaction_id": "pay-e"}'), pg_temp.payment('{"monime_transaction_id": "pay-f", "monime_otp": "POISON"}'),
  pg_temp.payment('{"monime_transaction_id": "pay-g"}'), pg_temp.payment('{"monime_transaction_id": "pay-h", "amount": 0}')));
update farebox.companies set status = 'active';
select pg_temp.at('12:00');
select results_eq(
  $$select ordinal, monime_transaction_id, concat_ws(' ', outcome, reason), ticket_id is not null, transaction_recorded
    from farebox.apply_unapplied_payments() where ordinal > 2$$,
  $$values (3, 'pay-e', 'created', true, true), (4, 'pay-f', 'rejected error_22012', false, false),
    (5, 'pay-g', 'created', true, true), (6, 'pay-h', 'rejected amount_invalid', false, false)$$,
  'a payment that makes the call raise does not stand in the way of the others');
select results_eq(
  $$select reason collate "default", attempts, to_char(last_seen_at at time zone 'UTC', 'HH24:MI'), resolved_at is null
    from farebox.unapplied_payments where monime_transaction_id = 'pay-f'$$,
  $$values ('error_22012', 2, '12:00', true)$$, 'it is tried, and goes to the end of the line');
select is((select count(*) from farebox.apply_unapplied_payments(p_reason => 'error_22012')), 1::bigint, 'and again, alone');
drop trigger poison on farebox.tickets;
select results_eq($$select outcome from farebox.apply_unapplied_payments(p_reason => 'error_22012')$$, $$values ('created')$$,
  'and becomes a ticket once the cause is gone');
-- What is no payment's fault.
create function pg_temp.read_only() returns trigger
language plpgsql as $$ begin raise read_only_sql_transaction; end $$;
create trigger read_only before insert on farebox.tickets
for each row execute function pg_temp.read_only();
update farebox.payment_codes set total_tickets = 9;
select throws_ok('select farebox.apply_unapplied_payments()', '25006', null, 'what is no payment''s fault raises');
drop trigger read_only on farebox.tickets;

-- Misuse -------------------------------------------------------------------------------------------------------

select is(pg_temp.raised(format('select farebox.apply_unapplied_payments(%s)', c.p_limit)),
  format('TK003 the limit is %s (pass a limit from 1 to 10000)', c.p_limit), 'TK003: ' || c.p_limit)
from (values ('0'), ('-1'), ('10001'), ('null')) as c(p_limit);
select lives_ok('select farebox.apply_unapplied_payments(10000)', 'the highest limit');

-- Privileges ---------------------------------------------------------------------------------------------------

select lives_ok(format('set local role %I; select farebox.apply_unapplied_payments(); reset role', r.role), r.role || ' may')
from unnest(array['farebox_worker', 'farebox_admin']) as r(role);
select throws_ok(format('set local role %I; select farebox.apply_unapplied_payments()', r.role), '42501', null, r.role || ' may not')
from unnest(array['farebox_app', 'farebox_company', 'pg_monitor']) as r(role);

select * from finish(true);
rollback;
