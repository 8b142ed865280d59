-- create_tickets: payments become tickets, exactly once each; one outcome for each element, in order.
begin;
select plan(214);

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
  ('c0000000-0000-7000-8000-000000000001', null, 'TWO', 2, 'active', null),
  ('c0000000-0000-7000-8000-000000000001', null, 'THREE', 3, 'active', null),
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
  from farebox.create_tickets(json_build_array(pg_temp.payment(p_fields))) as t
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
select * from farebox.create_tickets(json_build_array(
  pg_temp.payment('{"payment_code": "ANY"}'),
  pg_temp.payment('{"monime_transaction_id": " pay-2 ", "amount": 50, "passenger_phone": "+232 (76) 123-456."}'),
  pg_temp.payment('{"monime_transaction_id": "pay-3", "amount": 1000000000000, "commission_rate": 0.3333, "unknown": [1]}')));

select results_eq(
  'select ordinal, monime_transaction_id, outcome, reason, existing_ticket_id, differing, transaction_recorded from first',
  $$values
    (1, 'pay-1', 'created', null::text, null::uuid, null::text[], true),
    (2, ' pay-2 ', 'created', null, null, null, true),
    (3, 'pay-3', 'created', null, null, null, true)$$,
  'each payment becomes a ticket; its id is given back as it came');
select results_eq(
  $$select t.monime_transaction_id, t.company_id, t.route_id, t.passenger_phone, t.monime_otp, k.code, t.amount,
      t.commission_rate, t.status, t.created_at
    from first as f join farebox.tickets as t on t.id = f.ticket_id left join farebox.payment_codes as k on k.id = t.payment_code_id
    order by f.ordinal$$,
  $$values
    ('pay-1' collate "C", 'c0000000-0000-7000-8000-000000000001'::uuid, 'd0000000-0000-7000-8000-000000000001'::uuid,
      '+23276123456' collate "C", '482913' collate "C", 'ANY' collate "C", 5000::bigint, 0.05::numeric(5,4), 'pending' collate "C",
      farebox._now()),
    ('pay-2', 'c0000000-0000-7000-8000-000000000001', 'd0000000-0000-7000-8000-000000000001', '+23276123456',
      '482913', null, 50, 0.05, 'pending', farebox._now()),
    ('pay-3', 'c0000000-0000-7000-8000-000000000001', 'd0000000-0000-7000-8000-000000000001', '+23276123456',
      '482913', null, 1000000000000, 0.3333, 'pending', farebox._now())$$,
  'the ticket holds the normalised payment, the rate of the request or the company, and the database''s time');
select results_eq(
  $$select x.company_id, x.amount, x.commission, x.net_amount, x.created_at, x.status
    from first as f join farebox.transactions as x on x.ticket_id = f.ticket_id order by f.ordinal$$,
  $$values
    ('c0000000-0000-7000-8000-000000000001'::uuid, 5000::bigint, 250::bigint, 4750::bigint, farebox._now(), 'completed' collate "C"),
    ('c0000000-0000-7000-8000-000000000001', 50, 3, 47, farebox._now(), 'completed'),
    ('c0000000-0000-7000-8000-000000000001', 1000000000000, 333300000000, 666700000000, farebox._now(), 'completed')$$,
  'the transaction record: the commission rounded half away from zero, the rest is the company''s');
select is((select used_tickets from farebox.payment_codes where code = 'ANY'), 1, 'the code is charged once');
select ok(bool_and(substr(ticket_id::text, 15, 1) = '7'), 'ticket ids are UUIDs of version 7') from first;
select ok(bool_and(a.ticket_id < b.ticket_id), 'ticket ids follow the order of the batch')
from first as a join first as b on b.ordinal = a.ordinal + 1;
select is_empty($$select * from farebox.create_tickets('[]')$$, 'an empty batch has no outcomes');
select is_empty('select * from farebox.unapplied_payments', 'nothing is unapplied');
select is(pg_temp.outcome(c.fields::jsonb), 'created', 'accepted: ' || c.what)
from (values
  ('the lowest amount', '{"monime_transaction_id": "edge-1", "amount": 1}'),
  ('the shortest OTP', '{"monime_transaction_id": "edge-2", "monime_otp": "aB3z"}'),
  ('the longest OTP', '{"monime_transaction_id": "edge-3", "monime_otp": "ABCDEFabcdef"}'),
  ('the shortest phone', '{"monime_transaction_id": "edge-4", "passenger_phone": "+1234567"}'),
  ('the longest phone', '{"monime_transaction_id": "edge-5", "passenger_phone": "+123456789012345"}'),
  ('commission rate 0', '{"monime_transaction_id": "edge-6", "commission_rate": 0}'),
  ('commission rate 1', '{"monime_transaction_id": "edge-7", "commission_rate": "1.00000"}'),
  ('commission rate null, which is none', '{"monime_transaction_id": "edge-8", "commission_rate": null}'),
  ('payment code null, which is none', '{"monime_transaction_id": "edge-9", "payment_code": null}'),
  ('a blank payment code, which is none', '{"monime_transaction_id": "edge-10", "payment_code": " \t "}'),
  ('a transaction id of one character', '{"monime_transaction_id": "e"}'),
  ('a transaction id of 64 characters', format('{"monime_transaction_id": " %s "}', repeat('ö', 64))),
  ('a code in the microsecond before its end', '{"monime_transaction_id": "edge-11", "payment_code": "OTHER"}'),
  ('a code bound to the route', '{"monime_transaction_id": "edge-12", "payment_code": "ROUTE-1"}')
) as c(what, fields);

-- Replay -------------------------------------------------------------------------------------------------------

create temp table activity as
select c.oid::regclass as relation,
  pg_stat_get_xact_tuples_inserted(c.oid) + pg_stat_get_xact_tuples_updated(c.oid) + pg_stat_get_xact_tuples_deleted(c.oid) as rows_written
from pg_class as c
where c.relnamespace = 'farebox'::regnamespace and c.relkind = 'r';

select results_eq(
  $$select t.ordinal, t.monime_transaction_id, t.outcome, t.reason, t.ticket_id, t.existing_ticket_id, t.differing, t.transaction_recorded
    from farebox.create_tickets(json_build_array(
      pg_temp.payment('{"payment_code": "ANY"}'),
      pg_temp.payment('{"monime_transaction_id": "pay-2", "amount": 50}'))) as t$$,
  $$select f.ordinal, trim(f.monime_transaction_id), 'duplicate', null::text, f.ticket_id, null::uuid, null::text[], true
    from first as f where f.ordinal <= 2$$,
  'the same payments again: the same tickets');
select is(pg_temp.outcome('{"payment_code": "ANY"}'::jsonb || c.fields::jsonb), 'duplicate',
  'the same payment, written otherwise: ' || c.fields)
from (values
  ('{"amount": "5000"}'), ('{"amount": 5000.00}'), ('{"amount": "5e3"}'), ('{"amount": " +5000.0 "}'), ('{"amount": "0005000"}'),
  ('{"passenger_phone": " +232 76-12.34(56) "}'), ('{"monime_otp": " 482913\n"}'), ('{"payment_code": "\tANY "}'),
  ('{"monime_transaction_id": "  pay-1\u3000"}'), ('{"commission_rate": 0.9}'), ('{"commission_rate": "no rate"}'),
  ('{"company_id": " C0000000-0000-7000-8000-000000000001 "}'), ('{"route_id": "{d0000000000070008000000000000001}"}'), ('{"more": {}}')
) as c(fields);
select results_eq(
  $$select c.oid::regclass, pg_stat_get_xact_tuples_inserted(c.oid) + pg_stat_get_xact_tuples_updated(c.oid)
      + pg_stat_get_xact_tuples_deleted(c.oid)
    from pg_class as c where c.relnamespace = 'farebox'::regnamespace and c.relkind = 'r' order by c.oid::regclass::text collate "C"$$,
  'select relation, rows_written from activity order by relation::text collate "C"',
  'replays write no row and leave no dead one, not even one that was taken back');
select is((select used_tickets from farebox.payment_codes where code = 'ANY'), 1, 'a replay leaves the counter alone');

savepoint before_the_world_changed;
update farebox.companies set status = 'suspended' where id = 'c0000000-0000-7000-8000-000000000001';
update farebox.routes set status = 'inactive' where id = 'd0000000-0000-7000-8000-000000000001';
update farebox.payment_codes set status = 'cancelled' where code = 'ANY';
update farebox.tickets set status = 'used' where monime_transaction_id = 'pay-1';
select is(pg_temp.outcome('{"payment_code": "ANY"}'), 'duplicate',
  'a retry gets its ticket when the company is suspended, the route inactive, the code cancelled and the ticket used by now');
update farebox.payment_codes set status = 'expired', expires_at = '2025-01-01 00:00:00+00', total_tickets = 1 where code = 'ANY';
select is(pg_temp.outcome('{"payment_code": "ANY"}'), 'duplicate', 'a retry gets its ticket when the code is spent and over by now');
update farebox.companies set commission_rate = 0.5 where id = 'c0000000-0000-7000-8000-000000000001';
select is(pg_temp.outcome('{"payment_code": "ANY"}'), 'duplicate', 'a retry gets its ticket when the company''s rate has changed');
rollback to before_the_world_changed;

-- Conflict -----------------------------------------------------------------------------------------------------

select results_eq(
  $$select t.outcome, t.reason, t.ticket_id, t.existing_ticket_id, t.differing, t.transaction_recorded
    from farebox.create_tickets(json_build_array(pg_temp.payment('{"amount": 5001}'))) as t$$,
  $$select 'conflict', null::text, null::uuid, f.ticket_id, '{payment_code,amount}'::text[], false from first as f where f.ordinal = 1$$,
  'a conflict names the existing ticket and the fields that differ');
select is(pg_temp.outcome('{"payment_code": "ANY"}'::jsonb || c.fields::jsonb), 'conflict ' || c.differing,
  c.differing || ' differs: ' || c.fields)
from (values
  ('{route_id}', '{"route_id": "d0000000-0000-7000-8000-000000000002"}'),
  ('{route_id}', '{"route_id": "d0000000-0000-7000-8000-000000000003"}'),
  ('{route_id}', '{"route_id": "no uuid"}'),
  ('{route_id}', '{"route_id": null}'),
  ('{passenger_phone}', '{"passenger_phone": "+23276123457"}'),
  ('{passenger_phone}', '{"passenger_phone": "+23276***456"}'),
  ('{passenger_phone}', '{"passenger_phone": null}'),
  ('{payment_code}', '{"payment_code": "OTHER"}'),
  ('{payment_code}', '{"payment_code": "any"}'),
  ('{payment_code}', '{"payment_code": "no such code"}'),
  ('{payment_code}', '{"payment_code": 1}'),
  ('{payment_code}', '{"payment_code": null}'),
  ('{monime_otp}', '{"monime_otp": "482914"}'),
  ('{monime_otp}', '{"monime_otp": 482913}'),
  ('{monime_otp}', '{"monime_otp": null}'),
  ('{amount}', '{"amount": 4999}'),
  ('{amount}', '{"amount": "five thousand"}'),
  ('{amount}', '{"amount": null}'),
  ('{route_id,amount}', '{"amount": -1, "route_id": 7}'),
  ('{passenger_phone,monime_otp}', '{"monime_otp": "", "passenger_phone": []}'),
  ('{route_id,passenger_phone,payment_code,monime_otp,amount}',
    '{"amount": 1, "monime_otp": "000000", "payment_code": "OTHER", "passenger_phone": "+1234567", "route_id": "d0000000-0000-7000-8000-000000000002", "commission_rate": 0.5}')
) as c(differing, fields);
select is(pg_temp.outcome('{"monime_transaction_id": "pay-3", "amount": 1000000000000, "payment_code": "ANY"}'), 'conflict {payment_code}',
  'a code differs from none');
select is_empty('select * from farebox.unapplied_payments', 'a conflict is not money without a ticket');
select is((select used_tickets from farebox.payment_codes where code = 'ANY'), 1, 'a conflict leaves the counter alone');

-- Rejected: each reason ----------------------------------------------------------------------------------------

select is(pg_temp.outcome(jsonb_build_object('monime_transaction_id', 'bad ' || c.reason) || c.fields::jsonb), 'rejected ' || c.reason,
  c.reason || ': ' || left(c.fields, 100))
from (values
  ('transaction_id_invalid', '{"monime_transaction_id": null}'),
  ('transaction_id_invalid', '{"monime_transaction_id": ""}'),
  ('transaction_id_invalid', '{"monime_transaction_id": " \t\n\u00a0"}'),
  ('transaction_id_invalid', '{"monime_transaction_id": 5}'),
  ('transaction_id_invalid', '{"monime_transaction_id": true}'),
  ('transaction_id_invalid', '{"monime_transaction_id": ["pay-1"]}'),
  ('transaction_id_invalid', '{"monime_transaction_id": {"id": "pay-1"}}'),
  ('transaction_id_invalid', format('{"monime_transaction_id": "%s"}', repeat('x', 65))),
  ('transaction_id_invalid', format('{"monime_transaction_id": "%s"}', repeat('x', 1000000))),
  ('company_id_invalid', '{"company_id": null}'),
  ('company_id_invalid', '{"company_id": ""}'),
  ('company_id_invalid', '{"company_id": "c0000000-0000-7000-8000-00000000000"}'),
  ('company_id_invalid', '{"company_id": 1}'),
  ('company_id_invalid', '{"company_id": {}}'),
  ('company_id_invalid', '{"company_id": 12345678123456781234567812345678}'),
  ('route_id_invalid', '{"route_id": null}'),
  ('route_id_invalid', '{"route_id": "Freetown - Bo"}'),
  ('route_id_invalid', '{"route_id": []}'),
  ('route_id_invalid', '{"route_id": 12345678123456781234567812345678}'),
  ('phone_invalid', '{"passenger_phone": null}'),
  ('phone_invalid', '{"passenger_phone": ""}'),
  ('phone_invalid', '{"passenger_phone": "23276123456"}'),
  ('phone_invalid', '{"passenger_phone": 23276123456}'),
  ('phone_invalid', '{"passenger_phone": "+03276123456"}'),
  ('phone_invalid', '{"passenger_phone": "+123456"}'),
  ('phone_invalid', '{"passenger_phone": "+1234567890123456"}'),
  ('phone_invalid', '{"passenger_phone": "+23276***456"}'),
  ('phone_invalid', '{"passenger_phone": "+232/76123456"}'),
  ('phone_invalid', '{"passenger_phone": "+٢٣٢٧٦١٢٣٤٥"}'),
  ('otp_invalid', '{"monime_otp": null}'),
  ('otp_invalid', '{"monime_otp": "123"}'),
  ('otp_invalid', '{"monime_otp": "1234567890123"}'),
  ('otp_invalid', '{"monime_otp": "12 34"}'),
  ('otp_invalid', '{"monime_otp": "12é4"}'),
  ('otp_invalid', '{"monime_otp": 482913}'),
  ('otp_invalid', '{"monime_otp": "48\n29"}'),
  ('amount_invalid', '{"amount": null}'),
  ('amount_invalid', '{"amount": ""}'),
  ('amount_invalid', '{"amount": 0}'),
  ('amount_invalid', '{"amount": -5000}'),
  ('amount_invalid', '{"amount": 5000.5}'),
  ('amount_invalid', '{"amount": 1000000000001}'),
  ('amount_invalid', '{"amount": 1000000000000.0001}'),
  ('amount_invalid', '{"amount": 1e400}'),
  ('amount_invalid', '{"amount": "1e99999999"}'),
  ('amount_invalid', '{"amount": "NaN"}'),
  ('amount_invalid', '{"amount": "Infinity"}'),
  ('amount_invalid', '{"amount": "0x1388"}'),
  ('amount_invalid', '{"amount": "5_000"}'),
  ('amount_invalid', '{"amount": "5,000"}'),
  ('amount_invalid', '{"amount": true}'),
  ('amount_invalid', '{"amount": [5000]}'),
  ('commission_rate_invalid', '{"commission_rate": -0.0001}'),
  ('commission_rate_invalid', '{"commission_rate": 1.0001}'),
  ('commission_rate_invalid', '{"commission_rate": 0.12345}'),
  ('commission_rate_invalid', '{"commission_rate": "NaN"}'),
  ('commission_rate_invalid', '{"commission_rate": ""}'),
  ('commission_rate_invalid', '{"commission_rate": true}'),
  ('company_not_found', '{"company_id": "c0000000-0000-7000-8000-000000000009"}'),
  ('company_suspended', '{"company_id": "c0000000-0000-7000-8000-000000000003", "route_id": "d0000000-0000-7000-8000-000000000005"}'),
  ('route_not_found', '{"route_id": "d0000000-0000-7000-8000-000000000009"}'),
  ('route_not_found', '{"route_id": "d0000000-0000-7000-8000-000000000003"}'),
  ('route_inactive', '{"route_id": "d0000000-0000-7000-8000-000000000004"}'),
  ('code_not_found', '{"payment_code": "any"}'),
  ('code_not_found', '{"payment_code": 7}'),
  ('code_not_found', '{"payment_code": false}'),
  ('code_not_found', '{"payment_code": {}}'),
  ('code_not_found', format('{"payment_code": "%s"}', repeat('9', 1000000))),
  ('code_not_found', '{"payment_code": "FOREIGN"}'),
  ('code_route_mismatch', '{"payment_code": "ROUTE-2"}'),
  ('code_cancelled', '{"payment_code": "CANCELLED"}'),
  ('code_expired', '{"payment_code": "OVER"}'),
  ('code_expired', '{"payment_code": "MARKED"}')
) as c(reason, fields);

select is(pg_temp.outcome('{"monime_transaction_id": "last", "payment_code": "ONE"}'), 'created', 'the last use of a code is sold');
select is((select format('%s of %s %s', used_tickets, total_tickets, status) from farebox.payment_codes where code = 'ONE'),
  '1 of 1 expired', 'the use that reaches the limit sets expired');
select is(pg_temp.outcome('{"monime_transaction_id": "one too many", "payment_code": "ONE"}'), 'rejected code_exhausted',
  'code_exhausted: no use left');

select results_eq(
  $$select t.* from farebox.create_tickets(json_build_array(pg_temp.payment(
      '{"company_id": "c0000000-0000-7000-8000-000000000002", "monime_transaction_id": "pay-1 "}'))) as t$$,
  $$values (1, 'pay-1 ', 'rejected', 'transaction_id_unavailable', null::uuid, null::uuid, null::text[], false)$$,
  'transaction_id_unavailable: another company holds the id, and nothing else is told');

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

-- One after the other ------------------------------------------------------------------------------------------

create temp table sequence as
select t.* from farebox.create_tickets(json_build_array(
  pg_temp.payment('{"monime_transaction_id": "seq-1", "payment_code": "TWO"}'),
  pg_temp.payment('{"monime_transaction_id": "seq-2", "payment_code": "TWO"}'),
  pg_temp.payment('{"monime_transaction_id": "seq-3", "payment_code": "TWO"}'),
  pg_temp.payment('{"monime_transaction_id": "seq-1", "payment_code": "TWO"}'),
  pg_temp.payment('{"monime_transaction_id": "seq-3"}'),
  pg_temp.payment('{"monime_transaction_id": "seq-3", "payment_code": "TWO"}'),
  pg_temp.payment('{"monime_transaction_id": "seq-2", "payment_code": "TWO", "amount": 1}'),
  pg_temp.payment('{"monime_transaction_id": "seq-2", "company_id": "c0000000-0000-7000-8000-000000000002"}'),
  pg_temp.payment('{"monime_transaction_id": "seq-4", "monime_otp": "x"}'),
  pg_temp.payment('{"monime_transaction_id": "seq-4"}'),
  pg_temp.payment('{"monime_transaction_id": "seq-4", "monime_otp": "x"}'))) as t;
select results_eq(
  $$select ordinal, concat_ws(' ', outcome, reason, differing::text), transaction_recorded from sequence$$,
  $$values
    (1, 'created', true),
    (2, 'created', true),
    (3, 'rejected code_exhausted', false),
    (4, 'duplicate', true),
    (5, 'created', true),
    (6, 'conflict {payment_code}', false),
    (7, 'conflict {amount}', false),
    (8, 'rejected transaction_id_unavailable', false),
    (9, 'rejected otp_invalid', false),
    (10, 'created', true),
    (11, 'conflict {monime_otp}', false)$$,
  'a batch means the same as its elements one after the other');
select is(b.ticket_id, a.ticket_id, 'a repetition inside the batch gets the ticket of the first')
from sequence as a join sequence as b on b.ordinal = 4 where a.ordinal = 1;
select is(b.existing_ticket_id, a.ticket_id, 'a conflict inside the batch names the ticket of the first')
from sequence as a join sequence as b on b.ordinal = 7 where a.ordinal = 2;
select is((select format('%s of %s %s', used_tickets, total_tickets, status) from farebox.payment_codes where code = 'TWO'),
  '2 of 2 expired', 'the lowest ordinals get the uses that are left');
select results_eq(
  $$select concat_ws(' ', t.outcome, t.reason) from farebox.create_tickets((
      select json_agg(pg_temp.payment(jsonb_build_object('monime_transaction_id', p.id, 'payment_code', 'THREE')) order by p.place)
      from unnest(array['u1', 'u1', 'u1', 'u2', 'u1', 'u2', 'u3', 'u4', 'u3']) with ordinality as p(id, place))) as t$$,
  array['created', 'duplicate', 'duplicate', 'created', 'duplicate', 'duplicate', 'created', 'rejected code_exhausted', 'duplicate'],
  'repetitions inside a batch cost no use');
select is((select format('%s of %s %s', used_tickets, total_tickets, status) from farebox.payment_codes where code = 'THREE'),
  '3 of 3 expired', 'the counter is the number of tickets that carry the code');

-- Bad data harms nobody else -----------------------------------------------------------------------------------

create temp table poisoned as
select p.place, t.*
from farebox.create_tickets(format('[%s]', concat_ws(',',
  pg_temp.payment('{"monime_transaction_id": "p-1"}'),
  'null', '5', '"text"', 'true', '[]', '{}', '[{"monime_transaction_id": "p-2"}]',
  replace(pg_temp.payment('{"monime_transaction_id": "p-NUL"}')::text, 'NUL', '\u0000'),
  replace(pg_temp.payment('{"monime_transaction_id": "p-10", "monime_otp": "NUL4829"}')::text, 'NUL', '\u0000'),
  replace(pg_temp.payment('{"monime_transaction_id": "p-11", "passenger_phone": "+23276123NUL"}')::text, 'NUL', '\u0000'),
  replace(pg_temp.payment('{"monime_transaction_id": "p-12", "payment_code": "ANYNUL"}')::text, 'NUL', '\u0000'),
  replace(pg_temp.payment('{"monime_transaction_id": "p-13", "amount": "50NUL"}')::text, 'NUL', '\u0000'),
  replace(pg_temp.payment('{"monime_transaction_id": "p-14", "note": "NUL"}')::text, 'NUL', '\u0000'),
  replace(pg_temp.payment('{"monime_transaction_id": "p-15", "monime_otp": "HALF"}')::text, 'HALF', '\ud83d'),
  replace(pg_temp.payment('{"monime_transaction_id": "p-WHOLE"}')::text, 'WHOLE', '\ud83d\ude8c'),
  replace(pg_temp.payment('{"monime_transaction_id": "p-TEXT"}')::text, 'TEXT', '\\u0000'),
  replace(pg_temp.payment('{"monime_transaction_id": "p-18", "route_id": "NUL"}')::text, 'NUL', '\u0000'),
  replace(pg_temp.payment('{"monime_transaction_id": "p-19", "amount": 777}')::text, '777', '1' || repeat('0', 400)),
  pg_temp.payment('{"monime_transaction_id": "p-20", "payment_code": "''; drop table farebox.tickets; --"}'),
  pg_temp.payment('{"monime_transaction_id": "p-21"}')
))::json) as t
cross join lateral (select t.ordinal as place) as p;
select results_eq(
  $$select place, concat_ws(' ', outcome, reason) from poisoned$$,
  $$values
    (1, 'created'),
    (2, 'rejected transaction_id_invalid'),
    (3, 'rejected transaction_id_invalid'),
    (4, 'rejected transaction_id_invalid'),
    (5, 'rejected transaction_id_invalid'),
    (6, 'rejected transaction_id_invalid'),
    (7, 'rejected transaction_id_invalid'),
    (8, 'rejected transaction_id_invalid'),
    (9, 'rejected transaction_id_invalid'),
    (10, 'rejected otp_invalid'),
    (11, 'rejected phone_invalid'),
    (12, 'rejected code_not_found'),
    (13, 'rejected amount_invalid'),
    (14, 'created'),
    (15, 'rejected otp_invalid'),
    (16, 'created'),
    (17, 'created'),
    (18, 'rejected route_id_invalid'),
    (19, 'rejected amount_invalid'),
    (20, 'rejected code_not_found'),
    (21, 'created')$$,
  'bad data is rejected in its place and harms no neighbour');
select results_eq(
  $$select monime_transaction_id from poisoned where place in (1, 16, 17)$$,
  array['p-1', 'p-🚌', 'p-\u0000'],
  'what is readable beside it stays as it is');
select is((select request::text from farebox.unapplied_payments where monime_transaction_id = 'p-10'),
  replace(pg_temp.payment('{"monime_transaction_id": "p-10", "monime_otp": "NUL4829"}')::text, 'NUL', '\u0000'),
  'an unreadable request is kept as it came');

-- Money is never forgotten -------------------------------------------------------------------------------------

select results_eq(
  $$select u.reason collate "default" from farebox.unapplied_payments as u where u.monime_transaction_id = 'bad ' || u.reason order by u.reason$$,
  array['amount_invalid', 'code_cancelled', 'code_expired', 'code_not_found', 'code_route_mismatch', 'commission_rate_invalid',
    'company_id_invalid', 'company_not_found', 'company_suspended', 'otp_invalid', 'phone_invalid', 'route_id_invalid',
    'route_inactive', 'route_not_found'],
  'a payment rejected for any of these reasons is kept');
select is((select reason from farebox.unapplied_payments where monime_transaction_id = 'one too many'), 'code_exhausted',
  'and one rejected as code_exhausted');
select is_empty(
  $$select * from farebox.unapplied_payments where reason in ('transaction_id_invalid', 'transaction_id_unavailable')$$,
  'neither transaction_id_invalid nor transaction_id_unavailable is kept');
select is((select company_id from farebox.unapplied_payments where monime_transaction_id = 'bad company_id_invalid'), null,
  'a payment of no known company is kept without one');
select results_eq(
  $$select reason, resolved_at is not null, ticket_id = (select ticket_id from sequence where ordinal = 5)
    from farebox.unapplied_payments where monime_transaction_id = 'seq-3'$$,
  $$values ('code_exhausted' collate "C", true, true)$$,
  'a payment that gets its ticket further down in the batch is kept as resolved');

-- The steps of one payment: what came when, and what its row says then.
create function pg_temp.unapplied(p_id text) returns text
language sql stable as $$
  select format('%s, %s, %s attempts, %s to %s, now %s, earlier %s, %s', u.company_id, u.reason, u.attempts,
    to_char(u.first_seen_at at time zone 'UTC', 'HH24:MI'), to_char(u.last_seen_at at time zone 'UTC', 'HH24:MI'),
    u.request, u.earlier_requests::text, case when u.resolved_at is null then 'open'
      else 'resolved ' || to_char(u.resolved_at at time zone 'UTC', 'HH24:MI') end)
  from farebox.unapplied_payments as u where u.monime_transaction_id = p_id
$$;
create function pg_temp.at_hour(p_hour int) returns void
language plpgsql as $do$
begin
  execute format($$create or replace function farebox._now() returns timestamptz language sql volatile parallel safe
    as 'select ''2025-06-01 %s:00:00+00''::timestamptz'$$, p_hour);
end
$do$;
select lives_ok($$select farebox.create_tickets('[{"monime_transaction_id" : "kept", "amount":1}]')$$, 'a first try, without a company');
select is(pg_temp.unapplied('kept'),
  ', company_id_invalid, 1 attempts, 08:00 to 08:00, now {"monime_transaction_id" : "kept", "amount":1}, earlier {}, open',
  'the request is kept exactly as it came');
select pg_temp.at_hour(9);
select lives_ok($$select farebox.create_tickets('[{"monime_transaction_id" : "kept", "amount":1}]')$$, 'the same again');
select is(pg_temp.unapplied('kept'),
  ', company_id_invalid, 2 attempts, 08:00 to 09:00, now {"monime_transaction_id" : "kept", "amount":1}, earlier {}, open',
  'another attempt, nothing else');
select pg_temp.at_hour(10);
select lives_ok($$select farebox.create_tickets('[
  {"monime_transaction_id": " kept ", "company_id": "c0000000-0000-7000-8000-000000000001"},
  {"monime_transaction_id": "kept", "company_id": 1}]')$$, 'two other requests in one batch');
select is(pg_temp.unapplied('kept'),
  ', company_id_invalid, 4 attempts, 08:00 to 10:00, now {"monime_transaction_id": "kept", "company_id": 1}, earlier '
  '{"{\"monime_transaction_id\": \" kept \", \"company_id\": \"c0000000-0000-7000-8000-000000000001\"}",'
  '"{\"monime_transaction_id\" : \"kept\", \"amount\":1}"}, open',
  'the latest request and its reason, the earlier ones newest first; no company, for not all named the same');
select lives_ok($$select farebox.create_tickets((
  select json_agg(json_build_object('monime_transaction_id', 'kept', 'company_id', n)) from generate_series(2, 12) as n))$$,
  'eleven more requests');
select is(
  (select format('%s, %s attempts, earlier %s', request, attempts, (select string_agg(r ->> 'company_id', ' ') from unnest(earlier_requests) as r))
    from farebox.unapplied_payments where monime_transaction_id = 'kept'),
  '{"monime_transaction_id" : "kept", "company_id" : 12}, 15 attempts, earlier 11 10 9 8 7 6 5 4 3',
  'nine earlier requests are kept, the newest');
select pg_temp.at_hour(11);
select is(pg_temp.outcome('{"monime_transaction_id": "kept"}'), 'created', 'at last the payment becomes a ticket');
select is(
  (select format('%s, %s, %s attempts, last %s, resolved %s', u.company_id, u.reason, u.attempts, u.last_seen_at at time zone 'UTC',
      u.resolved_at at time zone 'UTC')
    from farebox.unapplied_payments as u
    join farebox.tickets as t on t.id = u.ticket_id and t.monime_transaction_id = u.monime_transaction_id
    where u.monime_transaction_id = 'kept'),
  ', company_id_invalid, 15 attempts, last 2025-06-01 10:00:00, resolved 2025-06-01 11:00:00',
  'its row is resolved by the ticket, the rest of it stays');
select pg_temp.at_hour(12);
select is(pg_temp.outcome('{"monime_transaction_id": "kept"}'), 'duplicate', 'a replay of it');
select is((select resolved_at from farebox.unapplied_payments where monime_transaction_id = 'kept'), '2025-06-01 11:00:00+00'::timestamptz,
  'the row stays as it was resolved');
select is(pg_temp.outcome('{"monime_transaction_id": "one too many"}'), 'created', 'a kept payment, applied for its company');
select is((select company_id from farebox.unapplied_payments where monime_transaction_id = 'one too many'),
  'c0000000-0000-7000-8000-000000000001'::uuid, 'its row stays that company''s');
select is(pg_temp.outcome('{"monime_transaction_id": "bad otp_invalid", "company_id": "c0000000-0000-7000-8000-000000000002",
  "route_id": "d0000000-0000-7000-8000-000000000003"}'), 'created', 'a kept payment, bought from another company');
select is((select company_id from farebox.unapplied_payments where monime_transaction_id = 'bad otp_invalid'), null,
  'its row is no company''s: neither may read what the other sent');
select is(pg_temp.outcome('{"monime_transaction_id": "bad phone_invalid", "monime_otp": "x", "company_id": "c0000000-0000-7000-8000-000000000002"}'),
  'rejected otp_invalid', 'a kept payment, claimed by another company');
select is((select company_id from farebox.unapplied_payments where monime_transaction_id = 'bad phone_invalid'), null,
  'its row is no company''s either');

-- A transaction record that cannot be written ------------------------------------------------------------------

create function pg_temp.refuse_record() returns trigger
language plpgsql as $$ begin raise exception 'the till is closed'; end $$;
create trigger refuse_record before insert on farebox.transactions
for each row when (new.amount = 666) execute function pg_temp.refuse_record();
set local client_min_messages = error;

select results_eq(
  $$select t.outcome, t.transaction_recorded from farebox.create_tickets(json_build_array(
      pg_temp.payment('{"monime_transaction_id": "till-1"}'),
      pg_temp.payment('{"monime_transaction_id": "till-2", "amount": 666, "payment_code": "ANY"}'),
      pg_temp.payment('{"monime_transaction_id": "till-2", "amount": 666, "payment_code": "ANY"}'),
      pg_temp.payment('{"monime_transaction_id": "till-3"}'))) as t$$,
  $$values ('created', true), ('created', false), ('duplicate', false), ('created', true)$$,
  'a transaction record that cannot be written costs neither its ticket nor the other records');
select is((select count(*) from farebox.tickets where monime_transaction_id like 'till-_'), 3::bigint, 'all tickets stand');
select is((select used_tickets from farebox.payment_codes where code = 'ANY'), 2, 'the code is charged');
select results_eq(
  $$select t.outcome, t.transaction_recorded from farebox.create_tickets(json_build_array(
      pg_temp.payment('{"monime_transaction_id": "till-2", "amount": 666, "payment_code": "ANY"}'))) as t$$,
  $$values ('duplicate', false)$$,
  'a replay says so too, as long as the record cannot be written');
drop trigger refuse_record on farebox.transactions;
select results_eq(
  $$select t.outcome, t.transaction_recorded from farebox.create_tickets(json_build_array(
      pg_temp.payment('{"monime_transaction_id": "till-2", "amount": 666, "payment_code": "ANY"}'))) as t$$,
  $$values ('duplicate', true)$$,
  'a replay writes the missing record as soon as it can');
select results_eq(
  $$select x.amount, x.commission, x.net_amount from farebox.transactions as x
    join farebox.tickets as t on t.id = x.ticket_id where t.monime_transaction_id = 'till-2'$$,
  $$values (666::bigint, 33::bigint, 633::bigint)$$,
  'the repaired record is the one that was missing');
select is_empty('select * from farebox.verify()', 'after all this every invariant holds');

-- Misuse -------------------------------------------------------------------------------------------------------

select is(pg_temp.raised(format('select farebox.create_tickets(%L)', c.batch)),
  'TK001 the batch is not a JSON array (pass an array of objects: [{"company_id": …}, …])', 'TK001: ' || coalesce(c.batch, 'null'))
from (values (null), ('null'), ('{}'), ('"[]"'), ('5'), ('true')) as c(batch);
select is(pg_temp.raised($$select farebox.create_tickets((select json_agg(1) from generate_series(1, 10001)))$$),
  'TK002 the batch is longer than 10,000 (send it in batches of 10,000 or fewer)', 'TK002: 10,001 elements');
select is((select count(*) from farebox.create_tickets((select json_agg(1) from generate_series(1, 10000)))), 10000::bigint,
  'a batch of 10,000 is answered');

-- Privileges ---------------------------------------------------------------------------------------------------

select lives_ok($$set local role farebox_app; select farebox.create_tickets('[]'); reset role$$, 'farebox_app may');
select throws_ok(format('set local role %I; select farebox.create_tickets(''[]'')', r.role), '42501', null, r.role || ' may not')
from unnest(array['farebox_worker', 'farebox_company', 'farebox_admin', 'pg_monitor']) as r(role);

select * from finish(true);
rollback;
