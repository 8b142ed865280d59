-- purge_unapplied_payments: removes kept payments that have their tickets since long; what is open is never removed.
begin;
select plan(17);

create or replace function farebox._now() returns timestamptz
language sql volatile parallel safe as $$ select '2025-06-01 08:00:00+00'::timestamptz $$;

insert into farebox.unapplied_payments (monime_transaction_id, request, reason, first_seen_at, last_seen_at, resolved_at, ticket_id)
select v.id, '{}', 'phone_invalid', '2020-01-01 00:00:00+00', '2020-01-01 00:00:00+00', v.resolved_at::timestamptz,
  case when v.resolved_at is not null then farebox._uuid_v7() end
from (values ('open', null), ('long resolved', '2025-01-01 00:00:00+00'), ('long resolved too', '2025-01-02 00:00:00+00'),
  ('resolved at the time', '2025-05-01 00:00:00+00'), ('resolved since', '2025-05-31 00:00:00+00')) as v(id, resolved_at);

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

select is(farebox.purge_unapplied_payments('2025-05-01 00:00:00+00'), 2, 'it says how many it removed');
select set_eq('select monime_transaction_id from farebox.unapplied_payments', array['open', 'resolved at the time', 'resolved since'],
  'those resolved before the time, and no others');
select is(farebox.purge_unapplied_payments('2025-05-01 00:00:00+00'), 0, 'again: nothing more to remove');
select results_eq($$select farebox.purge_unapplied_payments('2025-06-01 08:00:00+00', 1) from generate_series(1, 3)$$, array[1, 1, 0],
  'no more than the limit at a time, up to this very moment');
select results_eq('select monime_transaction_id collate "default" from farebox.unapplied_payments', array['open'], 'money without a ticket stays');

-- Misuse -------------------------------------------------------------------------------------------------------

select is(pg_temp.raised(format($$select farebox.purge_unapplied_payments('2025-01-01 00:00:00+00', %s)$$, c.p_limit)),
  format('TK003 the limit is %s (pass a limit from 1 to 10000)', c.p_limit), 'TK003: ' || c.p_limit)
from (values ('0'), ('-1'), ('10001'), ('null')) as c(p_limit);
set local timezone = 'UTC';
set local datestyle = 'ISO';
select is(pg_temp.raised(format('select farebox.purge_unapplied_payments(%L)', c.p_before)),
  format('TK003 the time is %s (pass a time that is past: what was resolved before it is removed)', coalesce(c.p_before, 'null')),
  'TK003: ' || coalesce(c.p_before, 'null'))
from (values ('2025-06-01 08:00:00.000001+00'), ('infinity'), (null)) as c(p_before);

-- Privileges ---------------------------------------------------------------------------------------------------

select lives_ok(format($$set local role %I; select farebox.purge_unapplied_payments('2025-01-01 00:00:00+00'); reset role$$, r.role), r.role || ' may')
from unnest(array['farebox_worker', 'farebox_admin']) as r(role);
select throws_ok(format($$set local role %I; select farebox.purge_unapplied_payments('2025-01-01 00:00:00+00')$$, r.role), '42501', null, r.role || ' may not')
from unnest(array['farebox_app', 'farebox_company', 'pg_monitor']) as r(role);

select * from finish(true);
rollback;
