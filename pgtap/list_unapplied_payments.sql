-- list_unapplied_payments: unapplied payments, tried longest ago first, by keyset pages.
begin;
select plan(23);

insert into farebox.unapplied_payments (monime_transaction_id, request, reason, last_seen_at, resolved_at, ticket_id)
select 'pay-' || v.id, '{}', v.reason, ('2025-06-01 ' || v.at || '+00')::timestamptz,
  case when v.resolved then '2025-06-02 00:00:00+00'::timestamptz end, case when v.resolved then farebox._uuid_v7() end
from (values
  ('a', 'phone_invalid', '08:04', false),
  ('b', 'code_exhausted', '08:02', false),
  ('B', 'phone_invalid', '08:02', false),
  ('d', 'phone_invalid', '08:02:00.000001', false),
  ('e', 'code_exhausted', '08:01', false),
  ('f', 'code_exhausted', '08:03', true)) as v(id, reason, at, resolved);

-- The payments found, by the last character of their ids, in the order found.
create function pg_temp.found(p_arguments text) returns text
language plpgsql as $$
declare
  v_found text;
begin
  execute format('select string_agg(right(u.monime_transaction_id, 1), '' '') from farebox.list_unapplied_payments(%s) as u', p_arguments)
    into v_found;
  return v_found;
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

select is(pg_temp.found(''), 'e B b d a', 'what is open, tried longest ago first, of one moment by id');
select is(pg_temp.found($$p_include_resolved => true$$), 'e B b d f a', 'with what is resolved');
select is(pg_temp.found($$p_reason => 'phone_invalid'$$), 'B d a', 'those of one reason');
select is(pg_temp.found($$p_reason => 'code_exhausted', p_include_resolved => true$$), 'e b f', 'both');
select is(pg_temp.found($$p_reason => 'no such reason'$$), null, 'a reason that none has');
select results_eq('select to_jsonb(u.*) from farebox.list_unapplied_payments(1) as u',
  $$select to_jsonb(u.*) from farebox.unapplied_payments as u where monime_transaction_id = 'pay-e'$$, 'their rows as they are');

-- Pages --------------------------------------------------------------------------------------------------------

select is(pg_temp.found(format('2, null, %s', c.last_row)), c.found, c.page)
from (values
  ('the first page', 'null, null', 'e B'),
  ('the second page, between two of one moment', $$'2025-06-01 08:02:00+00', 'pay-B'$$, 'b d'),
  ('the third page', $$'2025-06-01 08:02:00.000001+00', 'pay-d'$$, 'a'),
  ('the page after the last', $$'2025-06-01 08:04:00+00', 'pay-a'$$, null)
) as c(page, last_row, found);
select is(pg_temp.found($$1, 'phone_invalid', '2025-06-01 08:02:00+00', 'pay-B'$$), 'd', 'a page of those of one reason');
select is(pg_temp.found($$2, null, '2025-06-01 08:02:00.000001+00', 'pay-d', true$$), 'f a', 'a page with what is resolved');

insert into farebox.unapplied_payments (monime_transaction_id, request, reason) select 'many-' || n, '{}', 'phone_invalid' from generate_series(1, 1001) as n;
select is((select count(*) from farebox.list_unapplied_payments()), 100::bigint, '100 unless told');
select is((select count(*) from farebox.list_unapplied_payments(1000)), 1000::bigint, 'at most 1,000');

-- Misuse -------------------------------------------------------------------------------------------------------

select is(pg_temp.raised(format('select farebox.list_unapplied_payments(%s)', c.p_limit)),
  format('TK003 the limit is %s (pass a limit from 1 to 1000)', c.p_limit), 'TK003: ' || c.p_limit)
from (values ('0'), ('-1'), ('1001'), ('null')) as c(p_limit);

-- Privileges ---------------------------------------------------------------------------------------------------

select lives_ok('set local role farebox_admin; select farebox.list_unapplied_payments(); reset role', 'farebox_admin may');
select throws_ok(format('set local role %I; select farebox.list_unapplied_payments()', r.role), '42501', null, r.role || ' may not')
from unnest(array['farebox_app', 'farebox_worker', 'farebox_company', 'pg_monitor']) as r(role);

select * from finish(true);
rollback;
