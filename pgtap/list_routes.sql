-- list_routes: a company's routes by id, by keyset pages.
begin;
select plan(18);

insert into farebox.companies (id, name) values
  ('c0000000-0000-7000-8000-000000000001', 'Cotton Tree'), ('c0000000-0000-7000-8000-000000000002', 'Lion Mountain');
insert into farebox.routes (id, company_id, name, origin, destination, fare, status) values
  ('d0000000-0000-7000-8000-000000000003', 'c0000000-0000-7000-8000-000000000001', 'Third', 'Freetown', 'Bo', 5000, 'active'),
  ('d0000000-0000-7000-8000-000000000001', 'c0000000-0000-7000-8000-000000000001', 'First', 'Freetown', 'Kenema', 7000, 'inactive'),
  ('d0000000-0000-7000-8000-000000000002', 'c0000000-0000-7000-8000-000000000001', 'Second', 'Lumley', 'Aberdeen', 500, 'active'),
  ('d0000000-0000-7000-8000-000000000004', 'c0000000-0000-7000-8000-000000000002', 'Fourth', 'Lumley', 'Aberdeen', 500, 'active');

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

select results_eq($$select * from farebox.list_routes('c0000000-0000-7000-8000-000000000001')$$,
  $$select * from farebox.routes where company_id = 'c0000000-0000-7000-8000-000000000001' order by id$$, 'all of the company''s by id, their rows as they are');
select is((select name from farebox.list_routes('c0000000-0000-7000-8000-000000000002')), 'Fourth', 'another company''s are its own');
select is_empty('select * from farebox.list_routes(null)', 'no company, none');
select results_eq(format($$select name from farebox.list_routes('c0000000-0000-7000-8000-000000000001', 2, %L)$$, c.p_after_id), c.names, c.page)
from (values
  ('the first page', null, array['First', 'Second']),
  ('the second page', 'd0000000-0000-7000-8000-000000000002', array['Third']),
  ('after an id that is none', 'd0000000-0000-7000-8000-000000000000', array['First', 'Second'])
) as c(page, p_after_id, names);
select is_empty($$select * from farebox.list_routes('c0000000-0000-7000-8000-000000000001', 2, 'd0000000-0000-7000-8000-000000000003')$$, 'the page after the last');

insert into farebox.routes (company_id, name, fare) select 'c0000000-0000-7000-8000-000000000002', 'Route ' || n, 1 from generate_series(1, 1001) as n;
select is((select count(*) from farebox.list_routes('c0000000-0000-7000-8000-000000000002')), 100::bigint, '100 unless told');
select is((select count(*) from farebox.list_routes('c0000000-0000-7000-8000-000000000002', 1000)), 1000::bigint, 'at most 1,000');

-- Misuse -------------------------------------------------------------------------------------------------------

select is(pg_temp.raised(format('select farebox.list_routes(null, %s)', c.p_limit)),
  format('TK003 the limit is %s (pass a limit from 1 to 1000)', c.p_limit), 'TK003: ' || c.p_limit)
from (values ('0'), ('-1'), ('1001'), ('null')) as c(p_limit);

-- Privileges ---------------------------------------------------------------------------------------------------

select lives_ok(format('set local role %I; select farebox.list_routes(null); reset role', r.role), r.role || ' may')
from unnest(array['farebox_app', 'farebox_admin']) as r(role);
select throws_ok(format('set local role %I; select farebox.list_routes(null)', r.role), '42501', null, r.role || ' may not')
from unnest(array['farebox_worker', 'farebox_company', 'pg_monitor']) as r(role);

select * from finish(true);
rollback;
