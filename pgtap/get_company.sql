-- get_company: one company.
begin;
select plan(8);

insert into farebox.companies (id, name, monime_account_id, commission_rate, status) values
  ('c0000000-0000-7000-8000-000000000001', 'Cotton Tree', 'acc-1', 0.1, 'suspended'),
  ('c0000000-0000-7000-8000-000000000002', 'Lion Mountain', null, 0.05, 'active');

select results_eq($$select * from farebox.get_company('c0000000-0000-7000-8000-000000000001')$$,
  $$select * from farebox.companies where id = 'c0000000-0000-7000-8000-000000000001'$$, 'the company, its row as it is');
select is_empty($$select * from farebox.get_company('c0000000-0000-7000-8000-000000000009')$$, 'no such company');
select is_empty('select * from farebox.get_company(null)', 'no id');

-- Privileges ---------------------------------------------------------------------------------------------------

select lives_ok(format('set local role %I; select farebox.get_company(null); reset role', r.role), r.role || ' may')
from unnest(array['farebox_app', 'farebox_admin']) as r(role);
select throws_ok(format('set local role %I; select farebox.get_company(null)', r.role), '42501', null, r.role || ' may not')
from unnest(array['farebox_worker', 'farebox_company', 'pg_monitor']) as r(role);

select * from finish(true);
rollback;
