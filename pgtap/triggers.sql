-- The triggers: what tickets name cannot be deleted, the status of a code follows its terms, caches hear of what changed.
begin;
select plan(28);

create or replace function farebox._now() returns timestamptz
language sql volatile parallel safe as $$ select '2025-06-01 08:00:00+00'::timestamptz $$;

insert into farebox.companies (id, name) values ('c0000000-0000-7000-8000-000000000001', 'Cotton Tree'), ('c0000000-0000-7000-8000-000000000002', 'Empty Bus');
insert into farebox.routes (id, company_id, name, fare) values
  ('d0000000-0000-7000-8000-000000000001', 'c0000000-0000-7000-8000-000000000001', 'Freetown - Bo', 5000),
  ('d0000000-0000-7000-8000-000000000002', 'c0000000-0000-7000-8000-000000000001', 'Freetown - Kenema', 7000);
insert into farebox.payment_codes (id, company_id, code, total_tickets) values
  ('f0000000-0000-7000-8000-000000000001', 'c0000000-0000-7000-8000-000000000001', 'USED', 2),
  ('f0000000-0000-7000-8000-000000000002', 'c0000000-0000-7000-8000-000000000001', 'UNUSED', 2);
select lives_ok($$select farebox.create_ticket('{"company_id": "c0000000-0000-7000-8000-000000000001",
  "route_id": "d0000000-0000-7000-8000-000000000001", "passenger_phone": "+23276123456", "monime_transaction_id": "pay-1", "monime_otp": "482913",
  "amount": 5000, "payment_code": "USED"}')$$, 'a ticket is sold by route and code');

-- What tickets name stays --------------------------------------------------------------------------------------

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
select is(pg_temp.raised($$delete from farebox.routes where id = 'd0000000-0000-7000-8000-000000000001'$$),
  '23503 d0000000-0000-7000-8000-000000000001 of routes is named by tickets (set its status to inactive instead)', 'a route with tickets');
select is(pg_temp.raised($$delete from farebox.payment_codes where code = 'USED'$$),
  '23503 f0000000-0000-7000-8000-000000000001 of payment_codes is named by tickets (cancel it instead)', 'a code with tickets');
select is(pg_temp.raised('delete from farebox.routes'),
  '23503 d0000000-0000-7000-8000-000000000001 of routes is named by tickets (set its status to inactive instead)', 'all routes at once');

-- Whether a statement, which is taken back, keeps creators of tickets out.
create function pg_temp.locks_tickets(p_statement text) returns boolean
language plpgsql as $$
declare
  v_locks boolean;
begin
  execute p_statement;
  v_locks := exists (select from pg_locks as k
    where k.relation = 'farebox.tickets'::regclass and k.pid = pg_backend_pid() and k.mode = 'ShareLock');
  raise exception using errcode = 'UNDO0';
exception when sqlstate 'UNDO0' then
  return v_locks;
end
$$;
select ok(pg_temp.locks_tickets(format('delete from farebox.%I where false', r.relation)), 'no ticket is created while rows of ' || r.relation || ' are deleted')
from unnest(array['routes', 'payment_codes']) as r(relation);
select lives_ok($$delete from farebox.routes where id = 'd0000000-0000-7000-8000-000000000002'$$, 'a route without tickets goes');
select lives_ok($$delete from farebox.payment_codes where code = 'UNUSED'$$, 'a code without tickets goes');
select throws_ok($$delete from farebox.companies where id = 'c0000000-0000-7000-8000-000000000001'$$, '23503', null, 'a company with routes stays');
select lives_ok($$delete from farebox.companies where id = 'c0000000-0000-7000-8000-000000000002'$$, 'a company without routes goes');

-- The status of a code follows its terms -----------------------------------------------------------------------

select is(
  (select k.status from farebox.payment_codes as k where k.code = 'USED'), 'active', 'the code has one use left of two');
create function pg_temp.status_after(p_change text) returns text
language plpgsql as $$
declare
  v_status text;
begin
  execute format('update farebox.payment_codes set %s where code = ''USED'' returning status', p_change) into v_status;
  return v_status;
end
$$;
select is(pg_temp.status_after(c.change), c.status, c.change)
from (values
  ('total_tickets = 1', 'expired'),
  ($$status = 'active'$$, 'expired'),
  ('total_tickets = 1', 'expired'),
  ('total_tickets = 5', 'active'),
  ($$status = 'expired'$$, 'expired'),
  ('total_tickets = 6', 'expired'),
  ($$status = 'active', expires_at = '2025-06-01 07:59:59+00'$$, 'active'),
  ('total_tickets = 1', 'expired'),
  ('total_tickets = 6', 'expired'),
  ($$expires_at = '2025-06-01 08:00:01+00'$$, 'active'),
  ($$expires_at = '2025-06-01 07:00:00+00', status = 'expired'$$, 'expired'),
  ('expires_at = null', 'active'),
  ($$status = 'cancelled'$$, 'cancelled'),
  ('total_tickets = 1', 'cancelled'),
  ('total_tickets = 7, expires_at = null', 'cancelled')
) as c(change, status);

-- Caches hear of changes ---------------------------------------------------------------------------------------

-- Notifications arrive after commit only; what can be seen here is who would send one.
select set_eq(
  $$select t.tgrelid::regclass::text as relation, t.tgname::text as name from pg_trigger as t where t.tgfoid = 'farebox._notify_catalog'::regproc$$,
  $$select 'farebox.' || r as relation, r || '_notify_' || e as name from unnest(array['companies', 'routes', 'payment_codes']) as r
    cross join unnest(array['update', 'delete', 'truncate']) as e$$,
  'each change of the catalog is told');
select matches(
  (select pg_get_triggerdef(t.oid) from pg_trigger as t where t.tgname = 'payment_codes_notify_update'),
  'FOR EACH ROW WHEN \(\(\(new\.used_tickets = old\.used_tickets\) AND', 'but not that a code is charged');

select * from finish(true);
rollback;
