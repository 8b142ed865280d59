-- cancel_payment_codes: payment codes buy nothing more, what they bought stands; one outcome for each element, in order.
begin;
select plan(45);

insert into farebox.companies (id, name) values
  ('c0000000-0000-7000-8000-000000000001', 'Cotton Tree'), ('c0000000-0000-7000-8000-000000000002', 'Lion Mountain');
insert into farebox.routes (id, company_id, name, origin, destination, fare) values
  ('d0000000-0000-7000-8000-000000000001', 'c0000000-0000-7000-8000-000000000001', 'Freetown - Bo', 'Freetown', 'Bo', 5000);
insert into farebox.payment_codes (id, company_id, code, total_tickets, status) values
  ('f0000000-0000-7000-8000-000000000001', 'c0000000-0000-7000-8000-000000000001', 'ACTIVE', 10, 'active'),
  ('f0000000-0000-7000-8000-000000000002', 'c0000000-0000-7000-8000-000000000001', 'EXPIRED', 10, 'expired'),
  ('f0000000-0000-7000-8000-000000000003', 'c0000000-0000-7000-8000-000000000001', 'CANCELLED', 10, 'cancelled'),
  ('f0000000-0000-7000-8000-000000000004', 'c0000000-0000-7000-8000-000000000002', 'FOREIGN', 10, 'active'),
  ('f0000000-0000-7000-8000-000000000005', 'c0000000-0000-7000-8000-000000000001', 'UNTOUCHED', 10, 'active');

-- One element for that code.
create function pg_temp.named(p_code text) returns text
language sql immutable as $$
  select json_build_object('company_id', 'c0000000-0000-7000-8000-000000000001', 'code', p_code)::text
$$;
-- What became of each element, in words.
create function pg_temp.outcomes(variadic p_elements text[]) returns text
language sql volatile as $$
  select string_agg(concat_ws(' ', o.outcome, o.reason), ', ' order by o.ordinal)
  from farebox.cancel_payment_codes(format('[%s]', array_to_string(p_elements, ','))::json) as o
$$;
-- Buys a ticket by the code ACTIVE.
create function pg_temp.buy(p_id text) returns text
language sql volatile as $$
  select concat_ws(' ', t.outcome, t.reason) from farebox.create_ticket(json_build_object(
    'company_id', 'c0000000-0000-7000-8000-000000000001', 'route_id', 'd0000000-0000-7000-8000-000000000001',
    'passenger_phone', '+23276123456', 'monime_otp', '482913', 'amount', 5000, 'payment_code', 'ACTIVE', 'monime_transaction_id', p_id)) as t
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

-- Cancelled ----------------------------------------------------------------------------------------------------

select is(pg_temp.buy('pay-1'), 'created', 'the code sells');
select results_eq(
  format('select * from farebox.cancel_payment_codes(%L)',
    format('[%s, %s, %s, %s]', pg_temp.named('EXPIRED'), pg_temp.named(E' ACTIVE\n'), pg_temp.named('CANCELLED'), pg_temp.named('ACTIVE'))),
  $$values
    (1, 'f0000000-0000-7000-8000-000000000002'::uuid, 'cancelled', null::text),
    (2, 'f0000000-0000-7000-8000-000000000001', 'cancelled', null),
    (3, 'f0000000-0000-7000-8000-000000000003', 'unchanged', null),
    (4, 'f0000000-0000-7000-8000-000000000001', 'unchanged', null)$$,
  'active and expired codes are cancelled, cancelled ones stay; the first of two wins');
select results_eq(
  'select code collate "default", status collate "default", used_tickets from farebox.payment_codes order by id',
  $$values ('ACTIVE', 'cancelled', 1), ('EXPIRED', 'cancelled', 0), ('CANCELLED', 'cancelled', 0), ('FOREIGN', 'active', 0), ('UNTOUCHED', 'active', 0)$$,
  'those and no others, their counters as they were');
select is(pg_temp.buy('pay-2'), 'rejected code_cancelled', 'a cancelled code buys nothing more');
select is(pg_temp.buy('pay-1'), 'duplicate', 'what it bought stands');
select is_empty($$select * from farebox.cancel_payment_codes('[]')$$, 'an empty batch has no outcomes');
select is_empty('select * from farebox.verify()', 'every invariant holds');

-- Replay -------------------------------------------------------------------------------------------------------

create temp table activity as select pg_stat_get_xact_tuples_updated('farebox.payment_codes'::regclass) as rows_written;
select is(pg_temp.outcomes(pg_temp.named('EXPIRED'), pg_temp.named('ACTIVE')), 'unchanged, unchanged', 'the same again');
select is(pg_stat_get_xact_tuples_updated('farebox.payment_codes'::regclass), (select rows_written from activity), 'writes nothing');

-- Rejected -----------------------------------------------------------------------------------------------------

select is(pg_temp.outcomes(c.element, pg_temp.named('ACTIVE')), 'rejected ' || c.reason || ', unchanged', c.reason || ': ' || left(c.element, 100))
from (values
  ('element_invalid', 'null'), ('element_invalid', '5'), ('element_invalid', '"UNTOUCHED"'), ('element_invalid', '[]'),
  ('element_invalid', '{"code": "\u0000"}'), ('element_invalid', '{"code": "\ud83d"}'), ('element_invalid', '{"n": 1e999999}'),
  ('company_id_invalid', '{"code": "UNTOUCHED"}'), ('company_id_invalid', '{"company_id": null, "code": "UNTOUCHED"}'),
  ('company_id_invalid', '{"company_id": "", "code": "UNTOUCHED"}'), ('company_id_invalid', '{"company_id": 1, "code": "UNTOUCHED"}'),
  ('code_invalid', '{"company_id": "c0000000-0000-7000-8000-000000000001"}'),
  ('code_invalid', pg_temp.named(null)), ('code_invalid', pg_temp.named(E' \t')),
  ('code_invalid', '{"company_id": "c0000000-0000-7000-8000-000000000001", "code": 715}'),
  ('code_invalid', pg_temp.named(repeat('ö', 65))), ('code_invalid', pg_temp.named(repeat('x', 1000000))),
  ('code_not_found', pg_temp.named('untouched')), ('code_not_found', pg_temp.named('FOREIGN')),
  ('code_not_found', '{"company_id": "c0000000-0000-7000-8000-000000000009", "code": "UNTOUCHED"}')
) as c(reason, element);
select is((select string_agg(code, ' ' order by id) from farebox.payment_codes where status = 'active'), 'FOREIGN UNTOUCHED',
  'nothing was cancelled by that');
select is((select id from farebox.cancel_payment_codes(format('[%s]', pg_temp.named('FOREIGN'))::json)), null, 'and no id given away');

-- Everything is wrong; each line names the reason given and corrects one field for the next.
select is(
  pg_temp.outcomes(('{"company_id": "x", "code": ""}'::jsonb
    || coalesce(jsonb_object_agg(c.field, c.value) over (order by c.place rows between unbounded preceding and 1 preceding), '{}'))::text),
  'rejected ' || c.reason, format('precedence %s: %s', c.place, c.reason))
from (values
  (1, 'company_id_invalid', 'company_id', 'c0000000-0000-7000-8000-000000000001'),
  (2, 'code_invalid', 'code', 'FOREIGN'),
  (3, 'code_not_found', null, null)
) as c(place, reason, field, value);

-- Misuse -------------------------------------------------------------------------------------------------------

select is(pg_temp.raised(format('select farebox.cancel_payment_codes(%L)', c.batch)),
  'TK001 the batch is not a JSON array (pass an array of objects: [{"company_id": …}, …])', 'TK001: ' || coalesce(c.batch, 'null'))
from (values (null), ('null'), ('{}'), ('"[]"'), ('5')) as c(batch);
select is(pg_temp.raised($$select farebox.cancel_payment_codes((select json_agg(1) from generate_series(1, 10001)))$$),
  'TK002 the batch is longer than 10,000 (send it in batches of 10,000 or fewer)', 'TK002: 10,001 elements');

-- Privileges ---------------------------------------------------------------------------------------------------

select lives_ok(format('set local role farebox_admin; select farebox.cancel_payment_codes(%L); reset role', format('[%s]', pg_temp.named('UNTOUCHED'))),
  'farebox_admin may');
select throws_ok(format('set local role %I; select farebox.cancel_payment_codes(''[]'')', r.role), '42501', null, r.role || ' may not')
from unnest(array['farebox_app', 'farebox_worker', 'farebox_company', 'pg_monitor']) as r(role);

select * from finish(true);
rollback;
