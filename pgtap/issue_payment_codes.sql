-- issue_payment_codes: issues payment codes, or changes their limit or end; one outcome for each element, in order.
begin;
select plan(103);

create or replace function farebox._now() returns timestamptz
language sql volatile parallel safe as $$ select '2025-06-01 08:00:00+00'::timestamptz $$;

insert into farebox.companies (id, name) values
  ('c0000000-0000-7000-8000-000000000001', 'Cotton Tree'), ('c0000000-0000-7000-8000-000000000002', 'Lion Mountain');
insert into farebox.routes (id, company_id, name, origin, destination, fare) values
  ('d0000000-0000-7000-8000-000000000001', 'c0000000-0000-7000-8000-000000000001', 'Freetown - Bo', 'Freetown', 'Bo', 5000),
  ('d0000000-0000-7000-8000-000000000002', 'c0000000-0000-7000-8000-000000000001', 'Freetown - Kenema', 'Freetown', 'Kenema', 7000),
  ('d0000000-0000-7000-8000-000000000003', 'c0000000-0000-7000-8000-000000000002', 'Lumley - Aberdeen', 'Lumley', 'Aberdeen', 500);

-- A new code, some of its fields replaced.
create function pg_temp.code(p_fields text default '{}') returns text
language sql stable as $$
  select (jsonb_build_object('company_id', 'c0000000-0000-7000-8000-000000000001', 'code', 'NEW', 'total_tickets', 10)
    || p_fields::jsonb)::text
$$;
-- What became of each element, in words.
create function pg_temp.outcomes(variadic p_elements text[]) returns text
language sql volatile as $$
  select string_agg(concat_ws(' ', o.outcome, o.reason), ', ' order by o.ordinal)
  from farebox.issue_payment_codes(format('[%s]', array_to_string(p_elements, ','))::json) as o
$$;
-- The code as it is stored.
create function pg_temp.stored(p_code text) returns text
language sql volatile as $$
  select format('%s|%s|%s of %s|%s|%s|%s', right(k.company_id::text, 1), right(k.route_id::text, 1), k.used_tickets, k.total_tickets,
    k.status, k.expires_at at time zone 'UTC', k.created_at at time zone 'UTC')
  from farebox.payment_codes as k where k.code = p_code
$$;
-- Sells tickets by a code; says what became of them.
create function pg_temp.sell(p_code text, variadic p_ids text[]) returns text
language sql volatile as $$
  select string_agg(concat_ws(' ', t.outcome, t.reason), ', ' order by t.ordinal)
  from farebox.create_tickets((
    select json_agg(json_build_object('company_id', 'c0000000-0000-7000-8000-000000000001',
      'route_id', 'd0000000-0000-7000-8000-000000000001', 'passenger_phone', '+23276123456', 'monime_otp', '482913',
      'amount', 5000, 'payment_code', p_code, 'monime_transaction_id', i.id))
    from unnest(p_ids) as i(id))) as t
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
select * from farebox.issue_payment_codes(format('[%s]', concat_ws(',',
  pg_temp.code('{"code": " *715*9# ", "id": "f0000000-0000-7000-8000-000000000001", "route_id": "d0000000-0000-7000-8000-000000000001",
    "total_tickets": "2e0", "expires_at": "2025-06-30T23:59:59.5+01:00"}'),
  pg_temp.code('{"code": "ANY", "id": null, "route_id": null, "expires_at": null, "unknown": []}')))::json);
select results_eq(
  'select ordinal, outcome, reason from first',
  $$values (1, 'created', null::text), (2, 'created', null)$$,
  'new codes, one outcome each, in order');
select is((select id from first where ordinal = 1), 'f0000000-0000-7000-8000-000000000001'::uuid, 'the id may be given');
select is((select substr(id::text, 15, 1) from first where ordinal = 2), '7', 'else it is a UUID of version 7');
select is(pg_temp.stored('*715*9#'), '1|1|0 of 2|active|2025-06-30 22:59:59.5|2025-06-01 08:00:00',
  'texts are trimmed, numbers and times go by value, the time is the database''s');
select is(pg_temp.stored('ANY'), '1||0 of 10|active||2025-06-01 08:00:00', 'without a route or an end: any route, for ever');
select is_empty($$select * from farebox.issue_payment_codes('[]')$$, 'an empty batch has no outcomes');
select is(pg_temp.outcomes(pg_temp.code(format('{"code": "%s", "total_tickets": 1}', repeat('ö', 64))),
  pg_temp.code('{"code": "c", "total_tickets": 2147483647}'), pg_temp.code('{"code": "Case"}'), pg_temp.code('{"code": "CASE"}')),
  'created, created, created, created', 'accepted: the longest and the shortest code, the lowest and the highest limit; case counts');

-- Replay -------------------------------------------------------------------------------------------------------

create temp table activity as
select pg_stat_get_xact_tuples_inserted(t.oid) + pg_stat_get_xact_tuples_updated(t.oid) as rows_written
from (select 'farebox.payment_codes'::regclass::oid) as t(oid);
select results_eq(
  $$select o.id, o.outcome, o.reason from farebox.issue_payment_codes(format('[%s]', concat_ws(',',
    pg_temp.code('{"code": "*715*9#", "id": "F0000000-0000-7000-8000-000000000001", "route_id": "d0000000-0000-7000-8000-000000000001",
      "total_tickets": 2, "expires_at": "2025-06-30 22:59:59.500Z"}'),
    '{"company_id": "c0000000-0000-7000-8000-000000000001", "code": "*715*9#"}',
    pg_temp.code('{"code": "ANY"}')))::json) as o$$,
  $$select f.id, 'unchanged', null::text from first as f cross join generate_series(1, 3 - f.ordinal) order by f.ordinal$$,
  'the same again, or nothing but company and code, changes nothing: the code names the row');
select is(
  pg_stat_get_xact_tuples_inserted('farebox.payment_codes'::regclass) + pg_stat_get_xact_tuples_updated('farebox.payment_codes'::regclass),
  (select rows_written from activity), 'and writes nothing');

-- Updated ------------------------------------------------------------------------------------------------------

select is(
  pg_temp.outcomes(('{"company_id": "c0000000-0000-7000-8000-000000000001", "code": "*715*9#"}'::jsonb || c.fields::jsonb)::text)
    || ': ' || pg_temp.stored('*715*9#'),
  'updated: ' || c.stored, 'absent keys keep what is stored: ' || c.fields)
from (values
  ('{"total_tickets": 5}', '1|1|0 of 5|active|2025-06-30 22:59:59.5|2025-06-01 08:00:00'),
  ('{"expires_at": "2025-07-01T00:00Z"}', '1|1|0 of 5|active|2025-07-01 00:00:00|2025-06-01 08:00:00'),
  ('{"expires_at": null}', '1|1|0 of 5|active||2025-06-01 08:00:00'),
  ('{"total_tickets": 3, "expires_at": "2025-06-02T00:00:00+0000"}', '1|1|0 of 3|active|2025-06-02 00:00:00|2025-06-01 08:00:00')
) as c(fields, stored);
select is(
  pg_temp.outcomes(
    pg_temp.code('{"code": "TWICE", "total_tickets": 1}'),
    pg_temp.code('{"code": "ANY", "total_tickets": 11}'),
    pg_temp.code('{"code": "TWICE", "total_tickets": 2}'),
    pg_temp.code('{"code": "TWICE", "total_tickets": 0}'),
    pg_temp.code('{"code": "TWICE", "total_tickets": 2}')),
  'created, updated, updated, rejected total_tickets_invalid, unchanged', 'a batch means the same as its elements one after the other');

-- The status follows the limit and the end ---------------------------------------------------------------------

select is(pg_temp.sell('*715*9#', 'pay-1', 'pay-2'), 'created, created', 'two of three uses are sold');
select is(pg_temp.outcomes(pg_temp.code('{"code": "*715*9#", "total_tickets": 1}')), 'rejected total_below_used',
  'a limit below what is used is refused');
select is(pg_temp.outcomes(pg_temp.code('{"code": "*715*9#", "total_tickets": 2}')) || ': ' || pg_temp.stored('*715*9#'),
  'updated: 1|1|2 of 2|expired|2025-06-02 00:00:00|2025-06-01 08:00:00', 'a limit lowered to what is used: the code is spent');
select is(pg_temp.sell('*715*9#', 'pay-3'), 'rejected code_exhausted', 'and sells nothing more');
select is(pg_temp.outcomes(pg_temp.code('{"code": "*715*9#", "total_tickets": 3}')) || ': ' || pg_temp.stored('*715*9#'),
  'updated: 1|1|2 of 3|active|2025-06-02 00:00:00|2025-06-01 08:00:00', 'a limit raised above what is used: the code is active again');
select is(pg_temp.sell('*715*9#', 'pay-3', 'pay-4'), 'created, rejected code_exhausted', 'and sells the uses it was given');
select is(pg_temp.outcomes(pg_temp.code('{"code": "*715*9#", "total_tickets": 4, "expires_at": "2025-06-01T08:00Z"}'))
    || ': ' || pg_temp.stored('*715*9#') || ': ' || pg_temp.sell('*715*9#', 'pay-4'),
  'updated: 1|1|3 of 4|expired|2025-06-01 08:00:00|2025-06-01 08:00:00: rejected code_expired', 'a raised limit does not help when the time is over');
select is(pg_temp.outcomes(pg_temp.code('{"code": "*715*9#", "total_tickets": 4, "expires_at": "2025-06-02T00:00Z"}'))
    || ': ' || pg_temp.sell('*715*9#', 'pay-4'), 'updated: created', 'a later end does');

select is(pg_temp.outcomes(pg_temp.code('{"code": "ENDS", "expires_at": "2025-06-01T07:59:59Z"}')), 'created', 'a code may be over when it is issued');
select is(pg_temp.outcomes(pg_temp.code('{"code": "ENDS", "expires_at": "2025-06-01T09:00:00Z"}'))
    || ': ' || pg_temp.sell('ENDS', 'pay-5'), 'updated: created', 'a later end brings it back');
select is(pg_temp.outcomes(pg_temp.code('{"code": "ENDS", "expires_at": "2025-06-01T08:00:00Z"}'))
    || ': ' || farebox.expire_payment_codes() || ': ' || pg_temp.sell('ENDS', 'pay-6'),
  'updated: 1: rejected code_expired', 'its time is over again, and the sweep has marked it');
select is(pg_temp.outcomes(pg_temp.code('{"code": "ENDS", "expires_at": "2025-06-01T09:00:00Z"}'))
    || ': ' || pg_temp.stored('ENDS') || ': ' || pg_temp.sell('ENDS', 'pay-6'),
  'updated: 1||1 of 10|active|2025-06-01 09:00:00|2025-06-01 08:00:00: created', 'a later end brings it back, whether the sweep was there or not');

update farebox.payment_codes set status = 'cancelled' where code in ('ENDS', 'ANY');
select is(pg_temp.outcomes(pg_temp.code('{"code": "ENDS", "expires_at": "2025-06-01T09:00:00Z"}'),
    '{"company_id": "c0000000-0000-7000-8000-000000000001", "code": "ENDS"}'),
  'unchanged, unchanged', 'a cancelled code, issued the same again');
select is(pg_temp.outcomes(pg_temp.code('{"code": "ENDS", "total_tickets": 11}'), pg_temp.code('{"code": "ENDS", "expires_at": null}')),
  'rejected code_cancelled, rejected code_cancelled', 'a cancelled code does not change any more');

-- Rejected -----------------------------------------------------------------------------------------------------

create temp table before as select count(*) as codes from farebox.payment_codes;
select is(
  pg_temp.outcomes(case when c.element ~ '^\{' then pg_temp.code(c.element) else c.element end,
    '{"company_id": "c0000000-0000-7000-8000-000000000001", "code": "ENDS"}'),
  'rejected ' || c.reason || ', unchanged', c.reason || ': ' || left(c.element, 100))
from (values
  ('element_invalid', 'null'), ('element_invalid', '5'), ('element_invalid', '"NEW"'), ('element_invalid', '[]'),
  ('element_invalid', ' {"code": "NEW\u0000"}'), ('element_invalid', ' {"note": "\ud83d"}'), ('element_invalid', ' {"total_tickets": 1e999999}'),
  ('payment_code_id_invalid', '{"id": ""}'), ('payment_code_id_invalid', '{"id": 1}'), ('payment_code_id_invalid', '{"id": "f0000000"}'),
  ('company_id_invalid', '{"company_id": null}'), ('company_id_invalid', '{"company_id": ""}'), ('company_id_invalid', '{"company_id": {}}'),
  ('company_id_invalid', ' {"code": "NEW", "total_tickets": 1}'),
  ('route_id_invalid', '{"route_id": ""}'), ('route_id_invalid', '{"route_id": 1}'), ('route_id_invalid', '{"route_id": "any"}'),
  ('code_invalid', '{"code": null}'), ('code_invalid', '{"code": " \t\u00a0"}'), ('code_invalid', '{"code": 715}'),
  ('code_invalid', format('{"code": "%s"}', repeat('ö', 65))), ('code_invalid', format('{"code": "%s"}', repeat('x', 1000000))),
  ('code_invalid', ' {"company_id": "c0000000-0000-7000-8000-000000000001", "total_tickets": 1}'),
  ('total_tickets_invalid', '{"total_tickets": null}'), ('total_tickets_invalid', '{"total_tickets": 0}'), ('total_tickets_invalid', '{"total_tickets": -1}'),
  ('total_tickets_invalid', '{"total_tickets": 1.5}'), ('total_tickets_invalid', '{"total_tickets": 2147483648}'),
  ('total_tickets_invalid', '{"total_tickets": "NaN"}'), ('total_tickets_invalid', '{"total_tickets": "many"}'), ('total_tickets_invalid', '{"total_tickets": []}'),
  ('total_tickets_invalid', ' {"company_id": "c0000000-0000-7000-8000-000000000001", "code": "NEW"}'),
  ('expires_at_invalid', '{"expires_at": ""}'), ('expires_at_invalid', '{"expires_at": "tomorrow"}'), ('expires_at_invalid', '{"expires_at": "infinity"}'),
  ('expires_at_invalid', '{"expires_at": "2025-06-30"}'), ('expires_at_invalid', '{"expires_at": "2025-06-30T12:00:00"}'),
  ('expires_at_invalid', '{"expires_at": "2025-02-30T12:00:00Z"}'), ('expires_at_invalid', '{"expires_at": 1750000000}'),
  ('company_not_found', '{"company_id": "c0000000-0000-7000-8000-000000000009"}'),
  ('route_not_found', '{"route_id": "d0000000-0000-7000-8000-000000000009"}'),
  ('route_not_found', '{"route_id": "d0000000-0000-7000-8000-000000000003"}'),
  ('code_taken', '{"code": "ANY", "company_id": "c0000000-0000-7000-8000-000000000002"}'),
  ('code_taken', '{"code": "ANY", "route_id": "d0000000-0000-7000-8000-000000000001"}'),
  ('code_taken', '{"code": "*715*9#", "route_id": "d0000000-0000-7000-8000-000000000002"}'),
  ('code_taken', '{"code": "*715*9#", "route_id": null}'),
  ('code_taken', '{"code": "*715*9#", "id": "f0000000-0000-7000-8000-000000000002"}'),
  ('code_taken', '{"id": "f0000000-0000-7000-8000-000000000001"}'),
  ('total_below_used', '{"code": "*715*9#", "total_tickets": 3}'),
  ('code_cancelled', '{"code": "ENDS", "total_tickets": 12}')
) as c(reason, element);
select is((select count(*) from farebox.payment_codes), (select codes from before), 'what is rejected is not stored');
select is_empty('select * from farebox.verify()', 'after all this every invariant holds');
select results_eq(
  $$select o.ordinal, o.id::text, o.outcome from farebox.issue_payment_codes('[{"id": "f0000000-0000-7000-8000-000000000001"}, {"code": "ANY"}]') as o$$,
  $$values (1, 'f0000000-0000-7000-8000-000000000001', 'rejected'), (2, null::text, 'rejected')$$,
  'a rejected element has the id it came with, never that of the code it met');

-- Everything is wrong; each line names the reason given and corrects one field for the next. *715*9# is cancelled with four uses.
update farebox.payment_codes set status = 'cancelled' where code = '*715*9#';
select is(
  pg_temp.outcomes(('{"id": "x", "company_id": "x", "route_id": "x", "code": "", "total_tickets": "x", "expires_at": "x"}'::jsonb
    || coalesce(jsonb_object_agg(c.field, c.value) over (order by c.place rows between unbounded preceding and 1 preceding), '{}'))::text),
  'rejected ' || c.reason, format('precedence %s: %s', c.place, c.reason))
from (values
  (1, 'payment_code_id_invalid', 'id', 'f0000000-0000-7000-8000-000000000001'),
  (2, 'company_id_invalid', 'company_id', 'c0000000-0000-7000-8000-000000000009'),
  (3, 'route_id_invalid', 'route_id', 'd0000000-0000-7000-8000-000000000009'),
  (4, 'code_invalid', 'code', '*715*9#'),
  (5, 'total_tickets_invalid', 'total_tickets', '3'),
  (6, 'expires_at_invalid', 'expires_at', '2030-01-01T00:00:00Z'),
  (7, 'company_not_found', 'company_id', 'c0000000-0000-7000-8000-000000000001'),
  (8, 'route_not_found', 'route_id', 'd0000000-0000-7000-8000-000000000002'),
  (9, 'code_taken', 'route_id', 'd0000000-0000-7000-8000-000000000001'),
  (10, 'total_below_used', 'total_tickets', '4'),
  (11, 'code_cancelled', null, null)
) as c(place, reason, field, value);

-- Misuse -------------------------------------------------------------------------------------------------------

select is(pg_temp.raised(format('select farebox.issue_payment_codes(%L)', c.batch)),
  'TK001 the batch is not a JSON array (pass an array of objects: [{"company_id": …}, …])', 'TK001: ' || coalesce(c.batch, 'null'))
from (values (null), ('null'), ('{}'), ('"[]"'), ('5')) as c(batch);
select is(pg_temp.raised($$select farebox.issue_payment_codes((select json_agg(1) from generate_series(1, 10001)))$$),
  'TK002 the batch is longer than 10,000 (send it in batches of 10,000 or fewer)', 'TK002: 10,001 elements');

-- Privileges ---------------------------------------------------------------------------------------------------

select lives_ok(format('set local role farebox_admin; select farebox.issue_payment_codes(%L); reset role', format('[%s]', pg_temp.code())),
  'farebox_admin may');
select throws_ok(format('set local role %I; select farebox.issue_payment_codes(''[]'')', r.role), '42501', null, r.role || ' may not')
from unnest(array['farebox_app', 'farebox_worker', 'farebox_company', 'pg_monitor']) as r(role);

select * from finish(true);
rollback;
