-- metrics_activity: the companies and codes of the newest tickets, and who waits in the queue.
begin;
select plan(12);

insert into farebox.companies (id, name) values
  ('00000000-0000-7000-8000-00000000000a', 'A'), ('00000000-0000-7000-8000-00000000000b', 'B');
insert into farebox.routes (id, company_id, name, fare)
select ('00000000-0000-7000-8000-0000000001' || right(id::text, 2))::uuid, id, 'R', 100 from farebox.companies;
insert into farebox.payment_codes (company_id, code, total_tickets) values ('00000000-0000-7000-8000-00000000000a', '*1#', 9);

select is((select count(*) from farebox.metrics_activity()), 0::bigint, 'nothing while nobody sells');

create function pg_temp.payment(p_company text, p_number int, p_code text default null) returns json
language sql as $$
  select json_build_object('company_id', '00000000-0000-7000-8000-00000000000' || p_company,
    'route_id', '00000000-0000-7000-8000-00000000010' || p_company, 'passenger_phone', '+23276123456',
    'monime_transaction_id', 'pay-' || p_company || p_number, 'monime_otp', '1234', 'amount', 100, 'payment_code', p_code)
$$;
select * into temp created from farebox.create_tickets((
  select json_agg(pg_temp.payment('a', n, case when n <= 2 then '*1#' end) order by n) from generate_series(1, 3) as n));
select is((select count(*) from created where outcome = 'created'), 3::bigint, 'three tickets are sold');

select results_eq('select kind, name, tickets, used, total, queued from farebox.metrics_activity()',
  $$values ('code', '*1#', 2::bigint, 2, 9, null::bigint), ('company', 'A', 3::bigint, null, null, 0::bigint)$$,
  'the code and the company of the tickets');
select is((select count(*) from farebox.enqueue_tickets(json_build_array(pg_temp.payment('b', 1), pg_temp.payment('b', 2)))),
  2::bigint, 'two wait');
select results_eq($$select name, tickets, queued, oldest_age is not null from farebox.metrics_activity() where kind = 'company'$$,
  $$values ('A', 3::bigint, 0::bigint, false), ('B', 0::bigint, 2::bigint, true)$$, 'who only waits is there too');

select throws_ok(format('select * from farebox.metrics_activity(%s)', c.p_tickets), 'TK003', null, 'TK003: ' || c.p_tickets)
from (values ('0'), ('null')) as c(p_tickets);

select lives_ok(format($$set local role %I; select * from farebox.metrics_activity(); reset role$$, r.role), r.role || ' may')
from unnest(array['farebox_worker', 'farebox_admin']) as r(role);
select throws_ok(format($$set local role %I; select * from farebox.metrics_activity()$$, r.role), '42501', null, r.role || ' may not')
from unnest(array['farebox_app', 'farebox_company', 'pg_monitor']) as r(role);

select * from finish(true);
rollback;
