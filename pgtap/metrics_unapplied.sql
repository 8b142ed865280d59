-- metrics_unapplied: metrics of the money that could not become tickets.
begin;
select plan(7);

create or replace function farebox._now() returns timestamptz
language sql volatile parallel safe as $$ select '2025-06-01 08:00:00+00'::timestamptz $$;

select set_eq('select metric, labels, value from farebox.metrics_unapplied()',
  $$values ('farebox_unapplied_oldest_seconds', '{}'::jsonb, 0::double precision)$$, 'nothing unapplied');

insert into farebox.unapplied_payments (monime_transaction_id, request, reason, first_seen_at, resolved_at, ticket_id)
select v.id, '{}', v.reason, v.first_seen_at::timestamptz, case when v.resolved then farebox._now() end, case when v.resolved then farebox._uuid_v7() end
from (values
  ('a', 'phone_invalid', '2025-06-01 07:58:20+00', false), ('b', 'phone_invalid', '2025-06-01 07:59:00+00', false),
  ('c', 'code_exhausted', '2025-06-01 07:59:30+00', false), ('d', 'code_exhausted', '2025-05-01 00:00:00+00', true)) as v(id, reason, first_seen_at, resolved);
select set_eq('select metric, labels, value from farebox.metrics_unapplied()',
  $$values
    ('farebox_unapplied_payments', '{"reason": "phone_invalid"}'::jsonb, 2::double precision),
    ('farebox_unapplied_payments', '{"reason": "code_exhausted"}', 1),
    ('farebox_unapplied_oldest_seconds', '{}', 100)$$,
  'what is open by reason, and how long the oldest has been waiting');

-- Privileges ---------------------------------------------------------------------------------------------------

select lives_ok(format('set local role %I; select farebox.metrics_unapplied(); reset role', r.role), r.role || ' may')
from unnest(array['farebox_worker', 'farebox_admin']) as r(role);
select throws_ok(format('set local role %I; select farebox.metrics_unapplied()', r.role), '42501', null, r.role || ' may not')
from unnest(array['farebox_app', 'farebox_company', 'pg_monitor']) as r(role);

select * from finish(true);
rollback;
