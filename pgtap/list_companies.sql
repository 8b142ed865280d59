-- list_companies: companies by id, by keyset pages.
begin;
select plan(16);

insert into farebox.companies (id, name, monime_account_id, commission_rate, status) values
  ('c0000000-0000-7000-8000-000000000003', 'Third', null, 0.05, 'active'),
  ('c0000000-0000-7000-8000-000000000001', 'First', 'acc-1', 0.1, 'suspended'),
  ('c0000000-0000-7000-8000-000000000002', 'Second', null, 0.05, 'active');

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

select results_eq('select * from farebox.list_companies()', 'select * from farebox.companies order by id', 'all of them by id, their rows as they are');
select results_eq(format('select name from farebox.list_companies(2, %L)', c.p_after_id), c.names, c.page)
from (values
  ('the first page', null, array['First', 'Second']),
  ('the second page', 'c0000000-0000-7000-8000-000000000002', array['Third']),
  ('after an id that is none', 'c0000000-0000-7000-8000-000000000000', array['First', 'Second'])
) as c(page, p_after_id, names);
select is_empty($$select * from farebox.list_companies(2, 'c0000000-0000-7000-8000-000000000003')$$, 'the page after the last');

insert into farebox.companies (name) select 'Company ' || n from generate_series(1, 1001) as n;
select is((select count(*) from farebox.list_companies()), 100::bigint, '100 unless told');
select is((select count(*) from farebox.list_companies(1000)), 1000::bigint, 'at most 1,000');

-- Misuse -------------------------------------------------------------------------------------------------------

select is(pg_temp.raised(format('select farebox.list_companies(%s)', c.p_limit)),
  format('TK003 the limit is %s (pass a limit from 1 to 1000)', c.p_limit), 'TK003: ' || c.p_limit)
from (values ('0'), ('-1'), ('1001'), ('null')) as c(p_limit);

-- Privileges ---------------------------------------------------------------------------------------------------

select lives_ok(format('set local role %I; select farebox.list_companies(); reset role', r.role), r.role || ' may')
from unnest(array['farebox_app', 'farebox_admin']) as r(role);
select throws_ok(format('set local role %I; select farebox.list_companies()', r.role), '42501', null, r.role || ' may not')
from unnest(array['farebox_worker', 'farebox_company', 'pg_monitor']) as r(role);

select * from finish(true);
rollback;
