-- bind_company_login: binds a database login to the company it may read; null unbinds it.
begin;
select plan(21);

insert into farebox.companies (id, name) values
  ('c0000000-0000-7000-8000-000000000001', 'Cotton Tree'), ('c0000000-0000-7000-8000-000000000002', 'Lion Mountain');

-- The company that is read by whoever runs this test, as a member of farebox_company; null when none is.
create function pg_temp.read_as_company() returns text
language plpgsql as $$
declare
  v_names text;
begin
  set local role farebox_company;
  select string_agg(c.name, ', ') into v_names from farebox.companies as c;
  reset role;
  return v_names;
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

select is(pg_temp.read_as_company(), null, 'an unbound login reads nothing');
select lives_ok($$select farebox.bind_company_login(session_user, 'c0000000-0000-7000-8000-000000000001')$$, 'a login is bound');
select is(pg_temp.read_as_company(), 'Cotton Tree', 'and reads its company');
select lives_ok($$select farebox.bind_company_login(session_user, 'c0000000-0000-7000-8000-000000000001')$$, 'the same again');
select is(pg_temp.read_as_company(), 'Cotton Tree', 'changes nothing');
select lives_ok($$select farebox.bind_company_login(session_user, 'c0000000-0000-7000-8000-000000000002')$$, 'it is bound to another company');
select is(pg_temp.read_as_company(), 'Lion Mountain', 'and reads that one alone');
select is((select count(*) from farebox.company_logins), 1::bigint, 'a login has one company');
select lives_ok('select farebox.bind_company_login(session_user, null)', 'it is unbound');
select is(pg_temp.read_as_company(), null, 'and reads nothing');
select lives_ok('select farebox.bind_company_login(session_user, null)', 'unbound again');
select lives_ok($$select farebox.bind_company_login('no such role', null)$$, 'a role that has been dropped can be unbound');

-- Misuse -------------------------------------------------------------------------------------------------------

select is(pg_temp.raised($$select farebox.bind_company_login('no such role', 'c0000000-0000-7000-8000-000000000001')$$),
  '42704 there is no role "no such role" (create it first: create role "no such role" login in role farebox_company)', 'no such role');
select throws_ok($$select farebox.bind_company_login(session_user, 'c0000000-0000-7000-8000-000000000009')$$, '23503', null, 'no such company');
select throws_ok($$select farebox.bind_company_login(null, 'c0000000-0000-7000-8000-000000000001')$$, '42704', null, 'no login');
select is_empty('select * from farebox.company_logins', 'none of them is bound');

-- Privileges ---------------------------------------------------------------------------------------------------

select lives_ok($$set local role farebox_admin; select farebox.bind_company_login('farebox_company', 'c0000000-0000-7000-8000-000000000001'); reset role$$,
  'farebox_admin may');
select throws_ok(format($$set local role %I; select farebox.bind_company_login('farebox_company', null)$$, r.role), '42501', null, r.role || ' may not')
from unnest(array['farebox_app', 'farebox_worker', 'farebox_company', 'pg_monitor']) as r(role);

select * from finish(true);
rollback;
