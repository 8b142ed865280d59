-- expire_payment_codes: marks active payment codes whose time is over as expired.
begin;
select plan(16);

create or replace function farebox._now() returns timestamptz
language sql volatile parallel safe as $$ select '2025-06-01 08:00:00+00'::timestamptz $$;

insert into farebox.companies (id, name) values ('c0000000-0000-7000-8000-000000000001', 'Cotton Tree');
insert into farebox.payment_codes (company_id, code, total_tickets, status, expires_at) values
  ('c0000000-0000-7000-8000-000000000001', 'over long ago', 10, 'active', '2020-01-01 00:00:00+00'),
  ('c0000000-0000-7000-8000-000000000001', 'over now', 10, 'active', '2025-06-01 08:00:00+00'),
  ('c0000000-0000-7000-8000-000000000001', 'not yet over', 10, 'active', '2025-06-01 08:00:00.000001+00'),
  ('c0000000-0000-7000-8000-000000000001', 'never over', 10, 'active', null),
  ('c0000000-0000-7000-8000-000000000001', 'over and cancelled', 10, 'cancelled', '2020-01-01 00:00:00+00'),
  ('c0000000-0000-7000-8000-000000000001', 'over and expired', 10, 'expired', '2020-01-01 00:00:00+00');

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

-- Success ------------------------------------------------------------------------------------------------------

select is(farebox.expire_payment_codes(), 2, 'it says how many codes it marked');
select results_eq(
  'select code collate "default", status collate "default" from farebox.payment_codes order by code',
  $$values ('never over', 'active'), ('not yet over', 'active'), ('over and cancelled', 'cancelled'), ('over and expired', 'expired'),
    ('over long ago', 'expired'), ('over now', 'expired')$$,
  'the active codes whose time is over, and no others');

-- Replay -------------------------------------------------------------------------------------------------------

create temp table activity as select pg_stat_get_xact_tuples_updated('farebox.payment_codes'::regclass) as rows_written;
select is(farebox.expire_payment_codes(), 0, 'nothing more to mark');
select is(pg_stat_get_xact_tuples_updated('farebox.payment_codes'::regclass), (select rows_written from activity), 'writes nothing');

-- The limit ----------------------------------------------------------------------------------------------------

update farebox.payment_codes set status = 'active', expires_at = '2025-01-01 00:00:00+00' where status = 'expired';
select results_eq('select farebox.expire_payment_codes(2) from generate_series(1, 3)', array[2, 1, 0], 'no more than the limit at a time');
select is_empty('select * from farebox.verify()', 'every invariant holds');

-- Misuse -------------------------------------------------------------------------------------------------------

select is(pg_temp.raised(format('select farebox.expire_payment_codes(%s)', c.p_limit)),
  format('TK003 the limit is %s (pass a limit from 1 to 10000)', c.p_limit), 'TK003: ' || c.p_limit)
from (values ('0'), ('-1'), ('10001'), ('null')) as c(p_limit);
select is(farebox.expire_payment_codes(10000), 0, 'the highest limit');

-- Privileges ---------------------------------------------------------------------------------------------------

select lives_ok(format('set local role %I; select farebox.expire_payment_codes(); reset role', r.role), r.role || ' may')
from unnest(array['farebox_worker', 'farebox_admin']) as r(role);
select throws_ok(format('set local role %I; select farebox.expire_payment_codes()', r.role), '42501', null, r.role || ' may not')
from unnest(array['farebox_app', 'farebox_company', 'pg_monitor']) as r(role);

select * from finish(true);
rollback;
