-- list_payment_codes: a company's payment codes by id, by keyset pages.
begin;
select plan(18);

insert into farebox.companies (id, name) values
  ('c0000000-0000-7000-8000-000000000001', 'Cotton Tree'), ('c0000000-0000-7000-8000-000000000002', 'Lion Mountain');
insert into farebox.payment_codes (id, company_id, code, total_tickets, status, expires_at) values
  ('f0000000-0000-7000-8000-000000000003', 'c0000000-0000-7000-8000-000000000001', 'Third', 3, 'active', null),
  ('f0000000-0000-7000-8000-000000000001', 'c0000000-0000-7000-8000-000000000001', 'First', 1, 'expired', '2025-06-01 00:00:00+00'),
  ('f0000000-0000-7000-8000-000000000002', 'c0000000-0000-7000-8000-000000000001', 'Second', 2, 'cancelled', null),
  ('f0000000-0000-7000-8000-000000000004', 'c0000000-0000-7000-8000-000000000002', 'Fourth', 4, 'active', null);

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

select results_eq($$select * from farebox.list_payment_codes('c0000000-0000-7000-8000-000000000001')$$,
  $$select * from farebox.payment_codes where company_id = 'c0000000-0000-7000-8000-000000000001' order by id$$, 'all of the company''s by id, their rows as they are');
select is((select code from farebox.list_payment_codes('c0000000-0000-7000-8000-000000000002')), 'Fourth', 'another company''s are its own');
select is_empty('select * from farebox.list_payment_codes(null)', 'no company, none');
select results_eq(format($$select code collate "default" from farebox.list_payment_codes('c0000000-0000-7000-8000-000000000001', 2, %L)$$, c.p_after_id), c.names, c.page)
from (values
  ('the first page', null, array['First', 'Second']),
  ('the second page', 'f0000000-0000-7000-8000-000000000002', array['Third']),
  ('after an id that is none', 'f0000000-0000-7000-8000-000000000000', array['First', 'Second'])
) as c(page, p_after_id, names);
select is_empty($$select * from farebox.list_payment_codes('c0000000-0000-7000-8000-000000000001', 2, 'f0000000-0000-7000-8000-000000000003')$$, 'the page after the last');

insert into farebox.payment_codes (company_id, code, total_tickets)
select 'c0000000-0000-7000-8000-000000000002', 'Code ' || n, 1 from generate_series(1, 1001) as n;
select is((select count(*) from farebox.list_payment_codes('c0000000-0000-7000-8000-000000000002')), 100::bigint, '100 unless told');
select is((select count(*) from farebox.list_payment_codes('c0000000-0000-7000-8000-000000000002', 1000)), 1000::bigint, 'at most 1,000');

-- Misuse -------------------------------------------------------------------------------------------------------

select is(pg_temp.raised(format('select farebox.list_payment_codes(null, %s)', c.p_limit)),
  format('TK003 the limit is %s (pass a limit from 1 to 1000)', c.p_limit), 'TK003: ' || c.p_limit)
from (values ('0'), ('-1'), ('1001'), ('null')) as c(p_limit);

-- Privileges ---------------------------------------------------------------------------------------------------

select lives_ok(format('set local role %I; select farebox.list_payment_codes(null); reset role', r.role), r.role || ' may')
from unnest(array['farebox_app', 'farebox_admin']) as r(role);
select throws_ok(format('set local role %I; select farebox.list_payment_codes(null)', r.role), '42501', null, r.role || ' may not')
from unnest(array['farebox_worker', 'farebox_company', 'pg_monitor']) as r(role);

select * from finish(true);
rollback;
