-- get_route: one route of a company.
begin;
select plan(10);

insert into farebox.companies (id, name) values
  ('c0000000-0000-7000-8000-000000000001', 'Cotton Tree'), ('c0000000-0000-7000-8000-000000000002', 'Lion Mountain');
insert into farebox.routes (id, company_id, name, origin, destination, fare, status) values
  ('d0000000-0000-7000-8000-000000000001', 'c0000000-0000-7000-8000-000000000001', 'Freetown - Bo', 'Freetown', 'Bo', 5000, 'inactive'),
  ('d0000000-0000-7000-8000-000000000002', 'c0000000-0000-7000-8000-000000000001', 'Freetown - Kenema', 'Freetown', 'Kenema', 7000, 'active');

select results_eq($$select * from farebox.get_route('c0000000-0000-7000-8000-000000000001', 'd0000000-0000-7000-8000-000000000001')$$,
  $$select * from farebox.routes where id = 'd0000000-0000-7000-8000-000000000001'$$, 'the route, its row as it is');
select is_empty($$select * from farebox.get_route('c0000000-0000-7000-8000-000000000002', 'd0000000-0000-7000-8000-000000000001')$$, 'another company''s');
select is_empty($$select * from farebox.get_route('c0000000-0000-7000-8000-000000000001', 'd0000000-0000-7000-8000-000000000009')$$, 'no such route');
select is_empty($$select * from farebox.get_route(null, 'd0000000-0000-7000-8000-000000000001')$$, 'no company');
select is_empty($$select * from farebox.get_route('c0000000-0000-7000-8000-000000000001', null)$$, 'no id');

-- Privileges ---------------------------------------------------------------------------------------------------

select lives_ok(format('set local role %I; select farebox.get_route(null, null); reset role', r.role), r.role || ' may')
from unnest(array['farebox_app', 'farebox_admin']) as r(role);
select throws_ok(format('set local role %I; select farebox.get_route(null, null)', r.role), '42501', null, r.role || ' may not')
from unnest(array['farebox_worker', 'farebox_company', 'pg_monitor']) as r(role);

select * from finish(true);
rollback;
