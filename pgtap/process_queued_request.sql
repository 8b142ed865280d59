-- process_queued_request: processes the one request whose attempt begin_queued_request has counted.
begin;
select plan(24);

-- The clock stands still until the test sets it.
create or replace function farebox._now() returns timestamptz
language sql volatile parallel safe as $$ select current_setting('tap.now')::timestamptz $$;
set local tap.now = '2025-06-01 08:00:00+00';

insert into farebox.companies (id, name) values
  ('c0000000-0000-7000-8000-000000000001', 'Cotton Tree'),
  ('c0000000-0000-7000-8000-000000000002', 'Lion Mountain');
insert into farebox.routes (id, company_id, name, origin, destination, fare) values
  ('d0000000-0000-7000-8000-000000000001', 'c0000000-0000-7000-8000-000000000001', 'Freetown - Bo', 'Freetown', 'Bo', 5000),
  ('d0000000-0000-7000-8000-000000000002', 'c0000000-0000-7000-8000-000000000002', 'Lumley - Aberdeen', 'Lumley', 'Aberdeen', 500);

-- A payment of company 1 or 2, some of its fields replaced.
create function pg_temp.payment(p_id text, p_company int default 1, p_fields jsonb default '{}') returns json
language sql as $$
  select (jsonb_build_object('company_id', 'c0000000-0000-7000-8000-00000000000' || p_company,
    'route_id', 'd0000000-0000-7000-8000-00000000000' || p_company, 'passenger_phone', '+23276123456',
    'monime_transaction_id', p_id, 'monime_otp', '482913', 'amount', 5000) || p_fields)::json
$$;
-- Stores payments of company 1 under these ids; their queue ids.
create function pg_temp.enqueue(variadic p_ids text[]) returns bigint[]
language sql as $$
  select array(select e.queue_id from farebox.enqueue_tickets(
    (select json_agg(pg_temp.payment(i.id) order by i.ordinal) from unnest(p_ids) with ordinality as i(id, ordinal))) as e order by e.ordinal)
$$;
-- Tickets with this OTP cannot be written.
create function pg_temp.poison() returns trigger
language plpgsql as $$ begin raise division_by_zero using message = 'poison'; end $$;
create trigger poison before insert on farebox.tickets
for each row when (new.monime_otp = 'POISON') execute function pg_temp.poison();

create temp table ids as select i.id, i.ordinal from unnest(pg_temp.enqueue('pay-1', 'pay-2')) with ordinality as i(id, ordinal);
select is((select taken from farebox.process_queued_request((select id from ids where ordinal = 1))), 0, 'not begun, not processed');
select is(farebox.begin_queued_request(), (select id from ids where ordinal = 1), 'begun');
select results_eq('select * from farebox.process_queued_request((select id from ids where ordinal = 1))', 'values (1, 1, 0, 0, 0, 0, 0)', 'processed');
select results_eq('select * from farebox.process_queued_request((select id from ids where ordinal = 1))', 'values (0, 0, 0, 0, 0, 0, 0)', 'once');
select is(farebox.queue_size(), 1::bigint, 'and no other');

-- Its failure is the attempt that was counted ------------------------------------------------------------------

select is((select created from farebox.process_ticket_queue()), 1, 'the other too');
select count(*) from farebox.enqueue_tickets(json_build_array(pg_temp.payment('pay-3', 1, '{"monime_otp": "POISON"}')));
select results_eq('select * from farebox.process_queued_request(farebox.begin_queued_request())', 'values (1, 0, 0, 0, 0, 1, 0)', 'put back once');
set local tap.now = '2025-06-01 08:00:01+00';
select results_eq('select * from farebox.process_queued_request(farebox.begin_queued_request())', 'values (1, 0, 0, 0, 0, 1, 0)', 'and again');
select results_eq('select attempts::int, reason from farebox.ticket_queue', $$values (2, 'error_22012' collate "C")$$, 'each attempt counts once');
set local tap.now = '2025-06-01 08:00:02+00';
select results_eq('select * from farebox.process_queued_request(farebox.begin_queued_request())', 'values (1, 0, 0, 0, 0, 0, 1)', 'the third is the last');
select is(farebox.queue_size(), 0::bigint, 'it waits no more');
select is((select reason from farebox.unapplied_payments), 'error_22012', 'and is kept with its reason');

-- What is nobody's fault ---------------------------------------------------------------------------------------

create function pg_temp.fail() returns trigger
language plpgsql as $$ begin raise exception using errcode = current_setting('tap.sqlstate'); end $$;
create trigger fail before insert on farebox.tickets for each row execute function pg_temp.fail();
create function pg_temp.fails_with(p_sqlstate text) returns text
language plpgsql as $$
declare
  v_queue_id bigint := farebox.begin_queued_request();
  v_retried int;
begin
  perform set_config('tap.sqlstate', p_sqlstate, true);
  v_retried := (select p.retried from farebox.process_queued_request(v_queue_id) as p);
  perform set_config('tap.now', (farebox._now() + interval '1 s')::text, true);
  return (select format('%s retried, %s attempts, %s', v_retried, q.attempts, q.reason) from farebox.ticket_queue as q where q.id = v_queue_id);
end
$$;
select cardinality(pg_temp.enqueue('pay-4'));
select is(pg_temp.fails_with(c.sqlstate), format('1 retried, 0 attempts, error_%s', c.sqlstate), c.sqlstate || ' counts against no request')
from (values ('40001'), ('42501'), ('55P03'), ('53100'), ('25006')) as c(sqlstate);
select is(pg_temp.fails_with('53200'), '1 retried, 1 attempts, error_53200', 'but a request may need too much memory');
drop trigger fail on farebox.tickets;
select is((select created from farebox.process_ticket_queue()), 1, 'it goes through later');

-- Privileges ---------------------------------------------------------------------------------------------------

select lives_ok(format('set local role %I; select farebox.process_queued_request(1); reset role', r.role), r.role || ' may')
from unnest(array['farebox_worker']) as r(role);
select throws_ok(format('set local role %I; select farebox.process_queued_request(1)', r.role), '42501', null, r.role || ' may not')
from unnest(array['farebox_app', 'farebox_admin', 'farebox_company', 'pg_monitor']) as r(role);

select * from finish(true);
rollback;
