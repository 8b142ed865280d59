-- metrics_codes: metrics of payment codes and of those near their limit.
begin;
select plan(7);

create or replace function farebox._now() returns timestamptz
language sql volatile parallel safe as $$ select '2025-06-01 08:00:00+00'::timestamptz $$;

select set_eq('select value from farebox.metrics_codes()', array[0::double precision], 'no codes: all is 0');

insert into farebox.companies (id, name) values ('c0000000-0000-7000-8000-000000000001', 'Cotton Tree');
insert into farebox.payment_codes (company_id, code, total_tickets, used_tickets, status, expires_at)
select 'c0000000-0000-7000-8000-000000000001', v.code, 100, v.used, v.status, v.expires_at::timestamptz
from (values
  ('fresh', 0, 'active', null), ('nearly spent', 90, 'active', null), ('not yet nearly spent', 89, 'active', '2025-06-01 08:00:00.000001+00'),
  ('past its end', 0, 'active', '2025-06-01 08:00:00+00'), ('spent', 100, 'expired', null), ('marked', 95, 'expired', '2025-01-01 00:00:00+00'),
  ('cancelled', 95, 'cancelled', '2025-01-01 00:00:00+00')) as v(code, used, status, expires_at);
select set_eq('select metric, labels, value from farebox.metrics_codes()',
  $$values
    ('farebox_payment_codes', '{"status": "active"}'::jsonb, 4::double precision),
    ('farebox_payment_codes', '{"status": "expired"}', 2),
    ('farebox_payment_codes', '{"status": "cancelled"}', 1),
    ('farebox_payment_codes_nearly_spent', '{}', 1),
    ('farebox_payment_codes_overdue', '{}', 1)$$,
  'codes by status, those with nine tenths used, those past their end and not yet marked');

-- Privileges ---------------------------------------------------------------------------------------------------

select lives_ok(format('set local role %I; select farebox.metrics_codes(); reset role', r.role), r.role || ' may')
from unnest(array['farebox_worker', 'farebox_admin']) as r(role);
select throws_ok(format('set local role %I; select farebox.metrics_codes()', r.role), '42501', null, r.role || ' may not')
from unnest(array['farebox_app', 'farebox_company', 'pg_monitor']) as r(role);

select * from finish(true);
rollback;
