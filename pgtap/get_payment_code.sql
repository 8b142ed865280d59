-- get_payment_code: one payment code of a company.
begin;
select plan(11);

insert into farebox.companies (id, name) values
  ('c0000000-0000-7000-8000-000000000001', 'Cotton Tree'), ('c0000000-0000-7000-8000-000000000002', 'Lion Mountain');
insert into farebox.payment_codes (company_id, code, total_tickets, status, expires_at) values
  ('c0000000-0000-7000-8000-000000000001', '*715*9#', 3, 'expired', '2025-06-01 00:00:00+00'),
  ('c0000000-0000-7000-8000-000000000001', '*715*8#', 3, 'active', null);

select results_eq(format($$select * from farebox.get_payment_code('c0000000-0000-7000-8000-000000000001', %L)$$, c.code),
  $$select * from farebox.payment_codes where code = '*715*9#'$$, c.what)
from (values ('*715*9#', 'the code, its row as it is'), (E' *715*9#\n', 'trimmed')) as c(code, what);
select is_empty(format('select * from farebox.get_payment_code(%L, %L)', c.company_id, c.code), c.what)
from (values
  ('c0000000-0000-7000-8000-000000000002', '*715*9#', 'another company''s'),
  ('c0000000-0000-7000-8000-000000000001', '*715*7#', 'no such code'),
  (null, '*715*9#', 'no company'),
  ('c0000000-0000-7000-8000-000000000001', null, 'no code')
) as c(company_id, code, what);

-- Privileges ---------------------------------------------------------------------------------------------------

select lives_ok(format('set local role %I; select farebox.get_payment_code(null, null); reset role', r.role), r.role || ' may')
from unnest(array['farebox_app', 'farebox_admin']) as r(role);
select throws_ok(format('set local role %I; select farebox.get_payment_code(null, null)', r.role), '42501', null, r.role || ' may not')
from unnest(array['farebox_worker', 'farebox_company', 'pg_monitor']) as r(role);

select * from finish(true);
rollback;
