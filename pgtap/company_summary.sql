-- company_summary: a company's tickets by status, gross, commission and net amount in a span of time.
begin;
select plan(16);

insert into farebox.companies (id, name) values
  ('c0000000-0000-7000-8000-000000000001', 'Cotton Tree'), ('c0000000-0000-7000-8000-000000000002', 'Lion Mountain'),
  ('c0000000-0000-7000-8000-000000000003', 'Empty Bus');
-- One ticket an hour from 08:00; each commission of company 1 ends in a half.
insert into farebox.tickets (company_id, route_id, passenger_phone, monime_transaction_id, monime_otp, amount, commission_rate, status, created_at)
select format('c0000000-0000-7000-8000-00000000000%s', v.company)::uuid, 'd0000000-0000-7000-8000-000000000001', '+23276123456',
  'pay-' || v.n, '482913', v.amount, v.rate, v.status, '2025-06-01 08:00:00+00'::timestamptz + v.n * interval '1 hour'
from (values
  (0, 1, 10, 0.05, 'pending'),
  (1, 1, 30, 0.05, 'pending'),
  (2, 1, 50, 0.05, 'used'),
  (3, 1, 70, 0.05, 'expired'),
  (4, 1, 90, 0.05, 'cancelled'),
  (5, 1, 1000000000000, 1, 'used'),
  (6, 2, 7, 0.1, 'pending')) as v(n, company, amount, rate, status);

-- The one row, without the company; null when there is none.
create function pg_temp.summary(p_company int, p_from text default null, p_to text default null) returns text
language sql stable as $$
  select format('%s = %s + %s + %s + %s, %s = %s + %s', s.tickets, s.pending, s.used, s.expired, s.cancelled, s.gross, s.commission, s.net_amount)
  from farebox.company_summary(format('c0000000-0000-7000-8000-00000000000%s', p_company)::uuid, p_from::timestamptz, p_to::timestamptz) as s
$$;

select is(pg_temp.summary(1), '6 = 2 + 2 + 1 + 1, 1000000000160 = 1000000000010 + 150',
  'all its tickets by status; the money without what was cancelled, each commission rounded half away from zero');
select is(pg_temp.summary(2), '1 = 1 + 0 + 0 + 0, 7 = 1 + 6', 'another company''s are its own');
select is(pg_temp.summary(3), '0 = 0 + 0 + 0 + 0, 0 = 0 + 0', 'a company without tickets');
select is(pg_temp.summary(9), null, 'no such company, no row');
select is((select s.company_id from farebox.company_summary('c0000000-0000-7000-8000-000000000003') as s),
  'c0000000-0000-7000-8000-000000000003'::uuid, 'the row names the company');
select is_empty('select * from farebox.company_summary(null)', 'no company, no row');
select is(pg_temp.summary(1, c.p_from, c.p_to), c.summary, c.span)
from (values
  ('from on, the first moment included', '2025-06-01 12:00:00+00', null, '2 = 0 + 1 + 0 + 1, 1000000000000 = 1000000000000 + 0'),
  ('until, the last moment excluded', null, '2025-06-01 09:00:00+00', '1 = 1 + 0 + 0 + 0, 10 = 1 + 9'),
  ('between', '2025-06-01 08:00:00.000001+00', '2025-06-01 11:00:00.000001+00', '3 = 1 + 1 + 1 + 0, 150 = 9 + 141'),
  ('an empty span', '2025-06-01 09:00:00+00', '2025-06-01 09:00:00+00', '0 = 0 + 0 + 0 + 0, 0 = 0 + 0'),
  ('a span backwards', '2025-06-01 12:00:00+00', '2025-06-01 08:00:00+00', '0 = 0 + 0 + 0 + 0, 0 = 0 + 0')
) as c(span, p_from, p_to, summary);

-- Privileges ---------------------------------------------------------------------------------------------------

select lives_ok('set local role farebox_app; select farebox.company_summary(null); reset role', 'farebox_app may');
select throws_ok(format('set local role %I; select farebox.company_summary(null)', r.role), '42501', null, r.role || ' may not')
from unnest(array['farebox_worker', 'farebox_company', 'farebox_admin', 'pg_monitor']) as r(role);

select * from finish(true);
rollback;
