-- get_ticket: one ticket by its id, within a company when one is given.
begin;
select plan(12);

insert into farebox.companies (id, name) values
  ('c0000000-0000-7000-8000-000000000001', 'Cotton Tree'), ('c0000000-0000-7000-8000-000000000002', 'Lion Mountain');
insert into farebox.routes (id, company_id, name, origin, destination, fare) values
  ('d0000000-0000-7000-8000-000000000001', 'c0000000-0000-7000-8000-000000000001', 'Freetown - Bo', 'Freetown', 'Bo', 5000);
insert into farebox.payment_codes (id, company_id, code, total_tickets) values
  ('f0000000-0000-7000-8000-000000000001', 'c0000000-0000-7000-8000-000000000001', '*715*9#', 10);

create temp table sold as
select * from farebox.create_tickets('[
  {"company_id": "c0000000-0000-7000-8000-000000000001", "route_id": "d0000000-0000-7000-8000-000000000001", "passenger_phone": "+23276123456",
   "monime_transaction_id": "pay-1", "monime_otp": "482913", "amount": 5000, "payment_code": "*715*9#"},
  {"company_id": "c0000000-0000-7000-8000-000000000001", "route_id": "d0000000-0000-7000-8000-000000000001", "passenger_phone": "+23276123456",
   "monime_transaction_id": "pay-2", "monime_otp": "482914", "amount": 5000}]');

select is(to_jsonb(v.*) - 'created_at', jsonb_build_object(
  'id', s.ticket_id, 'company_id', 'c0000000-0000-7000-8000-000000000001', 'route_id', 'd0000000-0000-7000-8000-000000000001',
  'passenger_phone', '+23276123456', 'monime_transaction_id', 'pay-1', 'monime_otp', '482913',
  'payment_code_id', 'f0000000-0000-7000-8000-000000000001', 'payment_code', '*715*9#', 'amount', 5000, 'commission_rate', 0.05,
  'status', 'pending'), 'the ticket, its code in clear')
from sold as s cross join lateral farebox.get_ticket(s.ticket_id) as v where s.ordinal = 1;
select is(v.created_at, t.created_at, 'and the time it was created')
from sold as s cross join lateral farebox.get_ticket(s.ticket_id) as v join farebox.tickets as t on t.id = s.ticket_id where s.ordinal = 1;
select is(format('%s %s %s', v.monime_transaction_id, v.payment_code_id, v.payment_code), 'pay-2  ', 'a ticket without a code')
from sold as s cross join lateral farebox.get_ticket(s.ticket_id, null) as v where s.ordinal = 2;
select is(
  (select count(*) from sold as s cross join lateral farebox.get_ticket(s.ticket_id, 'c0000000-0000-7000-8000-000000000001')),
  2::bigint, 'within its company');
select is(
  (select count(*) from sold as s cross join lateral farebox.get_ticket(s.ticket_id, 'c0000000-0000-7000-8000-000000000002')),
  0::bigint, 'not within another');
select is_empty($$select * from farebox.get_ticket('e0000000-0000-7000-8000-000000000001')$$, 'no such ticket');
select is_empty('select * from farebox.get_ticket(null)', 'no id');

-- Privileges ---------------------------------------------------------------------------------------------------

select lives_ok('set local role farebox_app; select farebox.get_ticket(null); reset role', 'farebox_app may');
select throws_ok(format('set local role %I; select farebox.get_ticket(null)', r.role), '42501', null, r.role || ' may not')
from unnest(array['farebox_worker', 'farebox_company', 'farebox_admin', 'pg_monitor']) as r(role);

select * from finish(true);
rollback;
