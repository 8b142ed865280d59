-- create_ticket: a payment becomes a ticket, exactly once; its one outcome. The same rules as create_tickets.
begin;
select plan(86);

create or replace function farebox._now() returns timestamptz
language sql volatile parallel safe as $$ select '2025-06-01 08:00:00+00'::timestamptz $$;

-- Companies 1 and 2 sell, 3 is suspended; 1 takes 5 %. Routes 1, 2 and 4 (inactive) are company 1's.
insert into farebox.companies (id, name, commission_rate, status) values
  ('c0000000-0000-7000-8000-000000000001', 'Cotton Tree', 0.05, 'active'),
  ('c0000000-0000-7000-8000-000000000002', 'Lion Mountain', 0.1, 'active'),
  ('c0000000-0000-7000-8000-000000000003', 'Sleeping Bus', 0.1, 'suspended');
insert into farebox.routes (id, company_id, name, origin, destination, fare, status) values
  ('d0000000-0000-7000-8000-000000000001', 'c0000000-0000-7000-8000-000000000001', 'Freetown - Bo', 'Freetown', 'Bo', 5000, 'active'),
  ('d0000000-0000-7000-8000-000000000002', 'c0000000-0000-7000-8000-000000000001', 'Freetown - Kenema', 'Freetown', 'Kenema', 7000, 'active'),
  ('d0000000-0000-7000-8000-000000000003', 'c0000000-0000-7000-8000-000000000002', 'Lumley - Aberdeen', 'Lumley', 'Aberdeen', 500, 'active'),
  ('d0000000-0000-7000-8000-000000000004', 'c0000000-0000-7000-8000-000000000001', 'Freetown - Makeni', 'Freetown', 'Makeni', 6000, 'inactive'),
  ('d0000000-0000-7000-8000-000000000005', 'c0000000-0000-7000-8000-000000000003', 'Kissy - Waterloo', 'Kissy', 'Waterloo', 300, 'active');
insert into farebox.payment_codes (company_id, route_id, code, total_tickets, used_tickets, status, expires_at)
select v.company_id::uuid, v.route_id::uuid, v.code, v.total_tickets, 0, v.status, v.expires_at::timestamptz
from (values
  ('c0000000-0000-7000-8000-000000000001', null, 'ANY', 100, 'active', null),
  ('c0000000-0000-7000-8000-000000000001', null, 'OTHER', 100, 'active', '2025-06-01 08:00:00.000001+00'),
  ('c0000000-0000-7000-8000-000000000001', 'd0000000-0000-7000-8000-000000000001', 'ROUTE-1', 100, 'active', null),
  ('c0000000-0000-7000-8000-000000000001', 'd0000000-0000-7000-8000-000000000002', 'ROUTE-2', 100, 'active', null),
  ('c0000000-0000-7000-8000-000000000001', null, 'CANCELLED', 100, 'cancelled', null),
  ('c0000000-0000-7000-8000-000000000001', null, 'OVER', 100, 'active', '2025-06-01 08:00:00+00'),
  ('c0000000-0000-7000-8000-000000000001', null, 'MARKED', 100, 'expired', null),
  ('c0000000-0000-7000-8000-000000000001', null, 'ONE', 1, 'active', null),
  ('c0000000-0000-7000-8000-000000000002', null, 'FOREIGN', 100, 'active', null)
) as v(company_id, route_id, code, total_tickets, status, expires_at);

-- A payment that becomes a ticket, some of its fields replaced.
create function pg_temp.payment(p_fields jsonb default '{}') returns json
language sql stable as $$
  select (jsonb_build_object(
    'company_id', 'c0000000-0000-7000-8000-000000000001',
    'route_id', 'd0000000-0000-7000-8000-000000000001',
    'passenger_phone', '+23276123456',
    'monime_transaction_id', 'pay-1',
    'monime_otp', '482913',
    'amount', 5000) || p_fields)::json
$$;
-- What becomes of one payment, in words.
create function pg_temp.outcome(p_fields jsonb) returns text
language sql volatile as $$
  select string_agg(concat_ws(' ', t.outcome, t.reason, t.differing::text), ', ')
  from farebox.create_ticket(pg_temp.payment(p_fields)) as t
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

-- Created ------------------------------------------------------------------------------------------------------

create temp table first as
select * from farebox.create_ticket(pg_temp.payment('{"payment_code": "ANY", "monime_transaction_id": " pay-1 ", "amount": 50}'));

select results_eq(
  'select ordinal, monime_transaction_id, outcome, reason, existing_ticket_id, differing, transaction_recorded from first',
  $$values (1, ' pay-1 ', 'created', null::text, null::uuid, null::text[], true)$$,
  'a payment becomes a ticket; its id is given back as it came');
select is(
  (select format('%s %s %s %s %s %s %s %s %s %s', t.monime_transaction_id, t.company_id, t.route_id, t.passenger_phone, t.monime_otp,
      k.code, t.amount, t.commission_rate, t.status, t.created_at = farebox._now())
    from first as f join farebox.tickets as t on t.id = f.ticket_id join farebox.payment_codes as k on k.id = t.payment_code_id),
  'pay-1 c0000000-0000-7000-8000-000000000001 d0000000-0000-7000-8000-000000000001 +23276123456 482913 ANY 50 0.0500 pending t',
  'the ticket holds the normalised payment, the company''s rate and the database''s time');
select is(
  (select format('%s %s %s %s %s %s', x.company_id, x.amount, x.commission, x.net_amount, x.created_at = farebox._now(), x.status)
    from first as f join farebox.transactions as x on x.ticket_id = f.ticket_id),
  'c0000000-0000-7000-8000-000000000001 50 3 47 t completed',
  'its transaction record: the commission rounded half away from zero');
select is((select used_tickets from farebox.payment_codes where code = 'ANY'), 1, 'the code is charged once');
select is(substr(ticket_id::text, 15, 1), '7', 'the ticket''s id is a UUID of version 7') from first;
select is(pg_temp.outcome(c.fields::jsonb), 'created', 'accepted: ' || c.what)
from (values
  ('the highest amount', '{"monime_transaction_id": "edge-1", "amount": 1000000000000}'),
  ('its own rate', '{"monime_transaction_id": "edge-2", "commission_rate": 0.3333}'),
  ('a code in the microsecond before its end', '{"monime_transaction_id": "edge-3", "payment_code": "OTHER"}'),
  ('a code bound to the route', '{"monime_transaction_id": "edge-4", "payment_code": "ROUTE-1"}'),
  ('the last use of a code', '{"monime_transaction_id": "edge-5", "payment_code": "ONE"}')
) as c(what, fields);
select is((select format('%s of %s %s', used_tickets, total_tickets, status) from farebox.payment_codes where code = 'ONE'),
  '1 of 1 expired', 'the use that reaches the limit sets expired');

-- Replay -------------------------------------------------------------------------------------------------------

create temp table activity as
select c.oid::regclass as relation,
  pg_stat_get_xact_tuples_inserted(c.oid) + pg_stat_get_xact_tuples_updated(c.oid) + pg_stat_get_xact_tuples_deleted(c.oid) as rows_written
from pg_class as c
where c.relnamespace = 'farebox'::regnamespace and c.relkind = 'r';

select results_eq(
  $$select t.ordinal, t.outcome, t.reason, t.ticket_id, t.existing_ticket_id, t.differing, t.transaction_recorded
    from farebox.create_ticket(pg_temp.payment('{"payment_code": "ANY", "amount": 50}')) as t$$,
  $$select 1, 'duplicate', null::text, f.ticket_id, null::uuid, null::text[], true from first as f$$,
  'the same payment again: the same ticket');
select is(pg_temp.outcome('{"payment_code": "\tANY ", "passenger_phone": "+232 76-12.34(56)", "monime_otp": " 482913", "amount": "5e1",
  "monime_transaction_id": "  pay-1", "commission_rate": 0.9, "more": {}}'), 'duplicate', 'the same payment, written otherwise');
select results_eq(
  $$select c.oid::regclass, pg_stat_get_xact_tuples_inserted(c.oid) + pg_stat_get_xact_tuples_updated(c.oid)
      + pg_stat_get_xact_tuples_deleted(c.oid)
    from pg_class as c where c.relnamespace = 'farebox'::regnamespace and c.relkind = 'r' order by c.oid::regclass::text collate "C"$$,
  'select relation, rows_written from activity order by relation::text collate "C"',
  'a replay writes no row and leaves no dead one, not even one that was taken back');

savepoint before_the_world_changed;
update farebox.companies set status = 'suspended', commission_rate = 0.5 where id = 'c0000000-0000-7000-8000-000000000001';
update farebox.routes set status = 'inactive' where id = 'd0000000-0000-7000-8000-000000000001';
update farebox.payment_codes set status = 'cancelled' where code = 'ANY';
update farebox.tickets set status = 'used' where monime_transaction_id = 'pay-1';
select is(pg_temp.outcome('{"payment_code": "ANY", "amount": 50}'), 'duplicate',
  'a retry gets its ticket when the company is suspended, the route inactive, the code cancelled and the ticket used by now');
rollback to before_the_world_changed;

-- Conflict -----------------------------------------------------------------------------------------------------

select results_eq(
  $$select t.outcome, t.reason, t.ticket_id, t.existing_ticket_id, t.differing, t.transaction_recorded
    from farebox.create_ticket(pg_temp.payment('{"amount": 5001}')) as t$$,
  $$select 'conflict', null::text, null::uuid, f.ticket_id, '{payment_code,amount}'::text[], false from first as f$$,
  'a conflict names the existing ticket and the fields that differ');
select is(pg_temp.outcome('{"payment_code": "ANY", "amount": 50}'::jsonb || c.fields::jsonb), 'conflict ' || c.differing,
  c.differing || ' differs: ' || c.fields)
from (values
  ('{route_id}', '{"route_id": "d0000000-0000-7000-8000-000000000002"}'),
  ('{passenger_phone}', '{"passenger_phone": "+23276***456"}'),
  ('{payment_code}', '{"payment_code": "OTHER"}'),
  ('{payment_code}', '{"payment_code": ""}'),
  ('{monime_otp}', '{"monime_otp": "482914"}'),
  ('{amount}', '{"amount": "fifty"}'),
  ('{route_id,passenger_phone,payment_code,monime_otp,amount}',
    '{"amount": 1, "monime_otp": 1, "payment_code": 1, "passenger_phone": 1, "route_id": 1, "commission_rate": 0.5}')
) as c(differing, fields);
select is_empty('select * from farebox.unapplied_payments', 'a conflict is not money without a ticket');
select is((select used_tickets from farebox.payment_codes where code = 'ANY'), 1, 'a conflict leaves the counter alone');

-- Rejected: each reason ----------------------------------------------------------------------------------------

select is(pg_temp.outcome(jsonb_build_object('monime_transaction_id', 'bad ' || c.reason) || c.fields::jsonb), 'rejected ' || c.reason,
  c.reason || ': ' || c.fields)
from (values
  ('transaction_id_invalid', '{"monime_transaction_id": null}'),
  ('company_id_invalid', '{"company_id": "Cotton Tree"}'),
  ('route_id_invalid', '{"route_id": []}'),
  ('phone_invalid', '{"passenger_phone": "+23276***456"}'),
  ('otp_invalid', '{"monime_otp": "123"}'),
  ('amount_invalid', '{"amount": 0}'),
  ('amount_invalid', '{"amount": 1e400}'),
  ('commission_rate_invalid', '{"commission_rate": 0.12345}'),
  ('company_not_found', '{"company_id": "c0000000-0000-7000-8000-000000000009"}'),
  ('company_suspended', '{"company_id": "c0000000-0000-7000-8000-000000000003", "route_id": "d0000000-0000-7000-8000-000000000005"}'),
  ('route_not_found', '{"route_id": "d0000000-0000-7000-8000-000000000003"}'),
  ('route_inactive', '{"route_id": "d0000000-0000-7000-8000-000000000004"}'),
  ('code_not_found', '{"payment_code": "FOREIGN"}'),
  ('code_route_mismatch', '{"payment_code": "ROUTE-2"}'),
  ('code_cancelled', '{"payment_code": "CANCELLED"}'),
  ('code_expired', '{"payment_code": "OVER"}'),
  ('code_expired', '{"payment_code": "MARKED"}'),
  ('code_exhausted', '{"payment_code": "ONE"}')
) as c(reason, fields);
select results_eq(
  $$select t.* from farebox.create_ticket(pg_temp.payment(
      '{"company_id": "c0000000-0000-7000-8000-000000000002", "monime_transaction_id": "pay-1 "}')) as t$$,
  $$values (1, 'pay-1 ', 'rejected', 'transaction_id_unavailable', null::uuid, null::uuid, null::text[], false)$$,
  'transaction_id_unavailable: another company holds the id, and nothing else is told');
select is((select t.outcome || ' ' || t.reason from farebox.create_ticket(c.element::json) as t), 'rejected ' || c.reason,
  'bad data does not raise: ' || c.element)
from (values
  ('transaction_id_invalid', 'null'), ('transaction_id_invalid', '5'), ('transaction_id_invalid', '"text"'),
  ('transaction_id_invalid', '{}'), ('transaction_id_invalid', '[{"monime_transaction_id": "listed"}]'),
  ('transaction_id_invalid', '{"monime_transaction_id": "\u0000"}'),
  ('company_id_invalid', '{"monime_transaction_id": "nul", "company_id": "\u0000"}'),
  ('otp_invalid', replace(pg_temp.payment('{"monime_transaction_id": "nul", "monime_otp": "NUL4829"}')::text, 'NUL', '\u0000'))
) as c(reason, element);
select results_eq(
  $$select u.reason collate "default" from farebox.unapplied_payments as u where u.monime_transaction_id = 'bad ' || u.reason order by u.reason$$,
  array['amount_invalid', 'code_cancelled', 'code_exhausted', 'code_expired', 'code_not_found', 'code_route_mismatch',
    'commission_rate_invalid', 'company_id_invalid', 'company_not_found', 'company_suspended', 'otp_invalid', 'phone_invalid',
    'route_id_invalid', 'route_inactive', 'route_not_found'],
  'a payment rejected for any of these reasons is kept');
select is_empty(
  $$select * from farebox.unapplied_payments where reason in ('transaction_id_invalid', 'transaction_id_unavailable')$$,
  'neither transaction_id_invalid nor transaction_id_unavailable is kept');
select is((select format('%s %s', request, attempts) from farebox.unapplied_payments where monime_transaction_id = 'nul'),
  replace(pg_temp.payment('{"monime_transaction_id": "nul", "monime_otp": "NUL4829"}')::text, 'NUL', '\u0000') || ' 2',
  'the latest request is kept as it came, the attempts are counted');
select is(pg_temp.outcome('{"monime_transaction_id": "nul"}'), 'created', 'a kept payment becomes a ticket');
select ok(u.ticket_id = t.id and u.resolved_at = farebox._now(), 'and its row is resolved')
from farebox.unapplied_payments as u join farebox.tickets as t on t.monime_transaction_id = u.monime_transaction_id
where u.monime_transaction_id = 'nul';

-- Rejected: precedence -----------------------------------------------------------------------------------------

insert into farebox.payment_codes (company_id, route_id, code, total_tickets) values
  ('c0000000-0000-7000-8000-000000000001', 'd0000000-0000-7000-8000-000000000002', 'STACKED', 1);
select is(pg_temp.outcome('{"monime_transaction_id": "stacked", "payment_code": "STACKED", "route_id": "d0000000-0000-7000-8000-000000000002"}'),
  'created', 'a code is spent, then cancelled after its time');
update farebox.payment_codes set status = 'cancelled', expires_at = '2025-01-01 00:00:00+00' where code = 'STACKED';

-- Everything is wrong; each line names the reason given and corrects one field for the next.
select is(
  pg_temp.outcome('{"monime_transaction_id": "", "company_id": "x", "route_id": "x", "passenger_phone": "x", "monime_otp": "x",
    "amount": "x", "commission_rate": "x", "payment_code": "no such code"}'::jsonb
    || coalesce(jsonb_object_agg(c.field, c.value) over (order by c.place rows between unbounded preceding and 1 preceding), '{}')),
  'rejected ' || c.reason, format('precedence %s: %s', c.place, c.reason))
from (values
  (1, 'transaction_id_invalid', 'monime_transaction_id', 'pay-1'),
  (2, 'company_id_invalid', 'company_id', 'c0000000-0000-7000-8000-000000000009'),
  (3, 'transaction_id_unavailable', 'monime_transaction_id', 'precedence'),
  (4, 'route_id_invalid', 'route_id', 'd0000000-0000-7000-8000-000000000009'),
  (5, 'phone_invalid', 'passenger_phone', '+23276123456'),
  (6, 'otp_invalid', 'monime_otp', '482913'),
  (7, 'amount_invalid', 'amount', '5000'),
  (8, 'commission_rate_invalid', 'commission_rate', '0.05'),
  (9, 'company_not_found', 'company_id', 'c0000000-0000-7000-8000-000000000003'),
  (10, 'company_suspended', 'company_id', 'c0000000-0000-7000-8000-000000000001'),
  (11, 'route_not_found', 'route_id', 'd0000000-0000-7000-8000-000000000004'),
  (12, 'route_inactive', 'route_id', 'd0000000-0000-7000-8000-000000000001'),
  (13, 'code_not_found', 'payment_code', 'STACKED'),
  (14, 'code_route_mismatch', 'route_id', 'd0000000-0000-7000-8000-000000000002'),
  (15, 'code_cancelled', null, null)
) as c(place, reason, field, value);
update farebox.payment_codes set status = 'expired' where code = 'STACKED';
select is(pg_temp.outcome('{"monime_transaction_id": "precedence", "payment_code": "STACKED", "route_id": "d0000000-0000-7000-8000-000000000002"}'),
  'rejected code_expired', 'precedence 16: code_expired');
update farebox.payment_codes set expires_at = null where code = 'STACKED';
select is(pg_temp.outcome('{"monime_transaction_id": "precedence", "payment_code": "STACKED", "route_id": "d0000000-0000-7000-8000-000000000002"}'),
  'rejected code_exhausted', 'precedence 17: code_exhausted');

-- A transaction record that cannot be written ------------------------------------------------------------------

create function pg_temp.refuse_record() returns trigger
language plpgsql as $$ begin raise exception 'the till is closed'; end $$;
create trigger refuse_record before insert on farebox.transactions
for each row when (new.amount = 666) execute function pg_temp.refuse_record();
set local client_min_messages = error;

create function pg_temp.recorded() returns text
language sql volatile as $$
  select t.outcome || case when t.transaction_recorded then ', recorded' else ', not recorded' end
  from farebox.create_ticket(pg_temp.payment('{"monime_transaction_id": "till", "amount": 666, "payment_code": "ANY"}')) as t
$$;
select is(pg_temp.recorded(), 'created, not recorded', 'a transaction record that cannot be written does not cost the ticket');
select is((select used_tickets from farebox.payment_codes where code = 'ANY'), 2, 'the code is charged');
select is(pg_temp.recorded(), 'duplicate, not recorded', 'a replay says so too, as long as the record cannot be written');
drop trigger refuse_record on farebox.transactions;
select is(pg_temp.recorded(), 'duplicate, recorded', 'a replay writes the missing record as soon as it can');
select is_empty('select * from farebox.verify()', 'after all this every invariant holds');

-- Misuse -------------------------------------------------------------------------------------------------------

select is(pg_temp.raised('select farebox.create_ticket(null)'), 'TK001 the ticket is null (pass an object: {"company_id": …})',
  'TK001: null');

-- Privileges ---------------------------------------------------------------------------------------------------

select lives_ok($$set local role farebox_app; select farebox.create_ticket('{}'); reset role$$, 'farebox_app may');
select throws_ok(format('set local role %I; select farebox.create_ticket(''{}'')', r.role), '42501', null, r.role || ' may not')
from unnest(array['farebox_worker', 'farebox_company', 'farebox_admin', 'pg_monitor']) as r(role);

select * from finish(true);
rollback;
