-- tickets_by_phone: a passenger's tickets at one company, newest first, by keyset pages.
begin;
select plan(27);

insert into farebox.companies (id, name) values
  ('c0000000-0000-7000-8000-000000000001', 'Cotton Tree'), ('c0000000-0000-7000-8000-000000000002', 'Lion Mountain');
insert into farebox.payment_codes (id, company_id, code, total_tickets) values
  ('f0000000-0000-7000-8000-000000000001', 'c0000000-0000-7000-8000-000000000001', '*715*9#', 10);
-- Tickets 2 and 3 are of the same moment; 6 is another company's, 7 another passenger's.
insert into farebox.tickets (id, company_id, route_id, passenger_phone, monime_transaction_id, monime_otp, payment_code_id, amount,
  commission_rate, status, created_at)
select format('e0000000-0000-7000-8000-00000000000%s', v.n)::uuid, format('c0000000-0000-7000-8000-00000000000%s', v.company)::uuid,
  'd0000000-0000-7000-8000-000000000001', v.phone, 'pay-' || v.n, '482913',
  case v.n when 5 then 'f0000000-0000-7000-8000-000000000001'::uuid end, 5000, 0.05, v.status,
  ('2025-06-01 ' || v.at || '+00')::timestamptz
from (values
  (1, 1, '+23276123456', 'used', '08:01'),
  (2, 1, '+23276123456', 'pending', '08:02'),
  (3, 1, '+23276123456', 'cancelled', '08:02'),
  (4, 1, '+23276123456', 'pending', '08:02:00.000001'),
  (5, 1, '+23276123456', 'expired', '08:05'),
  (6, 2, '+23276123456', 'pending', '08:06'),
  (7, 1, '+23276123457', 'pending', '08:07')) as v(n, company, phone, status, at);

-- The tickets found, by the last digit of their ids, in the order found.
create function pg_temp.found(p_arguments text) returns text
language plpgsql as $$
declare
  v_found text;
begin
  execute format('select string_agg(right(t.id::text, 1), '' '') from farebox.tickets_by_phone(%s) as t', p_arguments) into v_found;
  return v_found;
end
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

select is(pg_temp.found($$'c0000000-0000-7000-8000-000000000001', '+23276123456'$$), '5 4 3 2 1',
  'newest first, of one moment the higher id first, whatever their status');
select is(pg_temp.found($$'c0000000-0000-7000-8000-000000000002', '+23276123456'$$), '6', 'another company''s are its own');
select is(pg_temp.found(format($$'c0000000-0000-7000-8000-000000000001', %L$$, c.phone)), c.found, 'the number may be written ' || c.phone)
from (values (' +232 (76) 123-457 ', '7'), ('+232.76.123.457', '7')) as c(phone, found);
select is(pg_temp.found(format($$'c0000000-0000-7000-8000-000000000001', %L$$, c.phone)), null, 'no tickets: ' || coalesce(c.phone, 'null'))
from (values ('+23276123458'), ('23276123456'), ('+23276***456'), (''), (null)) as c(phone);
select is(pg_temp.found($$null, '+23276123456'$$), null, 'no company, no tickets');
select is(to_jsonb(t.*), jsonb_build_object(
  'id', 'e0000000-0000-7000-8000-000000000005', 'company_id', 'c0000000-0000-7000-8000-000000000001',
  'route_id', 'd0000000-0000-7000-8000-000000000001', 'passenger_phone', '+23276123456', 'monime_transaction_id', 'pay-5',
  'monime_otp', '482913', 'payment_code_id', 'f0000000-0000-7000-8000-000000000001', 'payment_code', '*715*9#', 'amount', 5000,
  'commission_rate', 0.05, 'status', 'expired', 'created_at', '2025-06-01 08:05:00+00'::timestamptz), 'the ticket, its code in clear')
from farebox.tickets_by_phone('c0000000-0000-7000-8000-000000000001', '+23276123456', 1) as t;

-- Pages --------------------------------------------------------------------------------------------------------

select is(pg_temp.found(format($$'c0000000-0000-7000-8000-000000000001', '+23276123456', 2, %s$$, c.last_row)), c.found, c.page)
from (values
  ('the first page', 'null, null', '5 4'),
  ('the second page', $$'2025-06-01 08:02:00.000001+00', 'e0000000-0000-7000-8000-000000000004'$$, '3 2'),
  ('a page that begins between two of one moment', $$'2025-06-01 08:02:00+00', 'e0000000-0000-7000-8000-000000000003'$$, '2 1'),
  ('the third page', $$'2025-06-01 08:02:00+00', 'e0000000-0000-7000-8000-000000000002'$$, '1'),
  ('the page after the last', $$'2025-06-01 08:01:00+00', 'e0000000-0000-7000-8000-000000000001'$$, null)
) as c(page, last_row, found);

insert into farebox.tickets (company_id, route_id, passenger_phone, monime_transaction_id, monime_otp, amount, commission_rate)
select 'c0000000-0000-7000-8000-000000000001', 'd0000000-0000-7000-8000-000000000001', '+23276999999', 'many-' || n, '482913', 5000, 0.05
from generate_series(1, 1001) as n;
select is((select count(*) from farebox.tickets_by_phone('c0000000-0000-7000-8000-000000000001', '+23276999999')), 50::bigint, '50 unless told');
select is((select count(*) from farebox.tickets_by_phone('c0000000-0000-7000-8000-000000000001', '+23276999999', 1000)), 1000::bigint, 'at most 1,000');

-- Misuse -------------------------------------------------------------------------------------------------------

select is(pg_temp.raised(format('select farebox.tickets_by_phone(null, null, %s)', c.p_limit)),
  format('TK003 the limit is %s (pass a limit from 1 to 1000)', c.p_limit), 'TK003: ' || c.p_limit)
from (values ('0'), ('-1'), ('1001'), ('null')) as c(p_limit);

-- Privileges ---------------------------------------------------------------------------------------------------

select lives_ok('set local role farebox_app; select farebox.tickets_by_phone(null, null); reset role', 'farebox_app may');
select throws_ok(format('set local role %I; select farebox.tickets_by_phone(null, null)', r.role), '42501', null, r.role || ' may not')
from unnest(array['farebox_worker', 'farebox_company', 'farebox_admin', 'pg_monitor']) as r(role);

select * from finish(true);
rollback;
