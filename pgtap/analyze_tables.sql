-- analyze_tables: brings the planner's statistics up to date where much has changed.
begin;
select plan(13);

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

insert into farebox.companies (name) select 'Company ' || n from generate_series(1, 300) as n;
select set_eq('select farebox.analyze_tables(0)',
  $$select c.relname::text from pg_class as c where c.relnamespace = 'farebox'::regnamespace and c.relkind = 'r'$$, 'all tables, by name');
select is((select c.reltuples from pg_class as c where c.oid = 'farebox.companies'::regclass), 300::real, 'their statistics are those of now');
select is_empty('select farebox.analyze_tables(1)', 'no table whose rows have not all changed');

-- Misuse -------------------------------------------------------------------------------------------------------

select is(pg_temp.raised(format('select farebox.analyze_tables(%L)', c.p_share)),
  format('TK003 the share is %s (pass a share from 0 to 1)', coalesce(c.p_share, 'null')), 'TK003: ' || coalesce(c.p_share, 'null'))
from (values ('-0.1'), ('1.1'), ('NaN'), ('Infinity'), (null)) as c(p_share);

-- Privileges ---------------------------------------------------------------------------------------------------

select lives_ok(format('set local role %I; select farebox.analyze_tables(); reset role', r.role), r.role || ' may')
from unnest(array['farebox_worker', 'farebox_admin']) as r(role);
select throws_ok(format('set local role %I; select farebox.analyze_tables()', r.role), '42501', null, r.role || ' may not')
from unnest(array['farebox_app', 'farebox_company', 'pg_monitor']) as r(role);

select * from finish(true);
rollback;
