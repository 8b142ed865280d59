-- blameless_errors: how the SQLSTATEs begin of errors that are no request's fault.
begin;
select plan(8);

select set_eq('select * from farebox.blameless_errors()', array['25', '40', '42', '53100', '53300', '55'], 'these are nobody''s fault');
select is(count(*), 0::bigint, 'nothing that data may raise, or that may take much memory or time')
from unnest(array['08006', '22012', '23505', '53200', '54001', '57014', '57P01', '58030', 'XX000']) as e(sqlstate)
where farebox._is_blameless(e.sqlstate);
select ok(bool_and(farebox._is_blameless(e.sqlstate)), '_is_blameless: a code that begins so')
from unnest(array['25006', '40001', '40P01', '42501', '53100', '53300', '55P03']) as e(sqlstate);

-- Privileges ---------------------------------------------------------------------------------------------------

select lives_ok('set local role farebox_worker; select farebox.blameless_errors(); reset role', 'farebox_worker may');
select throws_ok(format('set local role %I; select farebox.blameless_errors()', r.role), '42501', null, r.role || ' may not')
from unnest(array['farebox_app', 'farebox_admin', 'farebox_company', 'pg_monitor']) as r(role);

select * from finish(true);
rollback;
