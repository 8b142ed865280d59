-- record_missing_transactions: writes the transaction records that could not be written when their tickets were created.
begin;
select plan(19);

create or replace function farebox._now() returns timestamptz
language sql volatile parallel safe as $$ select '2025-06-01 09:00:00+00'::timestamptz $$;

insert into farebox.companies (id, name) values ('c0000000-0000-7000-8000-000000000001', 'Cotton Tree');
insert into farebox.routes (id, company_id, name, origin, destination, fare) values
  ('d0000000-0000-7000-8000-000000000001', 'c0000000-0000-7000-8000-000000000001', 'Freetown - Bo', 'Freetown', 'Bo', 5000);
insert into farebox.tickets (id, company_id, route_id, amount, commission_rate, monime_transaction_id, passenger_phone, monime_otp, status, created_at)
select ('e0000000-0000-7000-8000-00000000000' || v.n)::uuid, 'c0000000-0000-7000-8000-000000000001', 'd0000000-0000-7000-8000-000000000001',
  v.amount, v.rate, 'pay-' || v.n, '+23276123456', '482913', v.status, '2025-06-01 08:00:00+00'
from (values (1, 5000, 0.05, 'pending'), (2, 50, 0.05, 'used'), (3, 49, 0.05, 'cancelled'), (4, 7, 0, 'pending'), (5, 7, 1, 'pending'))
  as v(n, amount, rate, status);
insert into farebox.transactions (ticket_id, company_id, amount, commission, net_amount, created_at)
values ('e0000000-0000-7000-8000-000000000004', 'c0000000-0000-7000-8000-000000000001', 7, 0, 7, '2025-06-01 08:00:00+00');

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

-- A record that cannot be written does not stop the others -----------------------------------------------------

create function pg_temp.refuse_record() returns trigger
language plpgsql as $$ begin raise exception 'the till is closed'; end $$;
create trigger refuse_record before insert on farebox.transactions
for each row when (new.amount = 50) execute function pg_temp.refuse_record();
set local client_min_messages = error;

select is(farebox.record_missing_transactions(), 3, 'it says how many records it wrote');
select results_eq(
  'select ticket_id, company_id, amount, commission, net_amount, created_at, status from farebox.transactions order by ticket_id',
  $$values
    ('e0000000-0000-7000-8000-000000000001'::uuid, 'c0000000-0000-7000-8000-000000000001'::uuid, 5000::bigint, 250::bigint, 4750::bigint,
      farebox._now(), 'completed' collate "C"),
    ('e0000000-0000-7000-8000-000000000003', 'c0000000-0000-7000-8000-000000000001', 49, 2, 47, farebox._now(), 'completed'),
    ('e0000000-0000-7000-8000-000000000004', 'c0000000-0000-7000-8000-000000000001', 7, 0, 7, '2025-06-01 08:00:00+00', 'completed'),
    ('e0000000-0000-7000-8000-000000000005', 'c0000000-0000-7000-8000-000000000001', 7, 7, 0, farebox._now(), 'completed')$$,
  'the records that can be written are written, by the ticket''s own rate; what was there stays');
select is(farebox.record_missing_transactions(), 0, 'as long as a record cannot be written, its ticket waits');
drop trigger refuse_record on farebox.transactions;
select is(farebox.record_missing_transactions(), 1, 'then it is written too');
select is((select commission from farebox.transactions where ticket_id = 'e0000000-0000-7000-8000-000000000002'), 3::bigint,
  'rounded half away from zero');

-- Replay -------------------------------------------------------------------------------------------------------

select is(farebox.record_missing_transactions(), 0, 'nothing is missing any more: nothing is written');
select is((select count(*) from farebox.transactions), 5::bigint, 'one record a ticket');
select is_empty('select * from farebox.verify()', 'every invariant holds');

-- The limit ----------------------------------------------------------------------------------------------------

delete from farebox.transactions;
select results_eq(
  $$select farebox.record_missing_transactions(2) from generate_series(1, 4)$$,
  array[2, 2, 1, 0],
  'no more than the limit at a time');

-- Misuse -------------------------------------------------------------------------------------------------------

select is(pg_temp.raised(format('select farebox.record_missing_transactions(%s)', c.p_limit)),
  format('TK003 the limit is %s (pass a limit from 1 to 10000)', c.p_limit), 'TK003: ' || c.p_limit)
from (values ('0'), ('-1'), ('10001'), ('null')) as c(p_limit);
select is(farebox.record_missing_transactions(10000), 0, 'the highest limit');

-- Privileges ---------------------------------------------------------------------------------------------------

select lives_ok(format('set local role %I; select farebox.record_missing_transactions(); reset role', r.role), r.role || ' may')
from unnest(array['farebox_worker', 'farebox_admin']) as r(role);
select throws_ok(format('set local role %I; select farebox.record_missing_transactions()', r.role), '42501', null, r.role || ' may not')
from unnest(array['farebox_app', 'farebox_company', 'pg_monitor']) as r(role);

select * from finish(true);
rollback;
