-- metrics_retries: metrics of queued requests that are tried again.
begin;
select plan(14);

-- The clock stands still until the test sets it.
create or replace function farebox._now() returns timestamptz
language sql volatile parallel safe as $$ select current_setting('tap.now')::timestamptz $$;
set local tap.now = '2025-06-01 08:00:00+00';

insert into farebox.companies (id, name) values ('c0000000-0000-7000-8000-000000000001', 'Cotton Tree');
insert into farebox.routes (id, company_id, name, origin, destination, fare) values
  ('d0000000-0000-7000-8000-000000000001', 'c0000000-0000-7000-8000-000000000001', 'Freetown - Bo', 'Freetown', 'Bo', 5000);
-- Stores so many payments, the first of them with this OTP.
create function pg_temp.enqueue(p_name text, p_payments int, p_otp text default '482913') returns bigint
language sql as $$
  select count(*) from farebox.enqueue_tickets((
    select json_agg(json_build_object('company_id', 'c0000000-0000-7000-8000-000000000001',
      'route_id', 'd0000000-0000-7000-8000-000000000001', 'passenger_phone', '+23276123456',
      'monime_transaction_id', p_name || n, 'monime_otp', case n when 1 then p_otp else '482913' end, 'amount', 5000))
    from generate_series(1, p_payments) as n))
$$;
-- Tickets with this OTP cannot be written.
create function pg_temp.poison() returns trigger
language plpgsql as $$ begin raise division_by_zero using message = 'poison'; end $$;
create trigger poison before insert on farebox.tickets
for each row when (new.monime_otp = 'POISON') execute function pg_temp.poison();
-- The counters as this transaction sees them: retries, given up.
create function pg_temp.counted() returns bigint[]
language sql as $$
  select array[pg_stat_get_xact_tuples_returned('farebox.idx_tally_retries'::regclass),
    pg_stat_get_xact_tuples_returned('farebox.idx_tally_given_up'::regclass)]
$$;

select set_eq('select metric, labels from farebox.metrics_retries()',
  $$values ('farebox_queue_retries_total', '{}'::jsonb), ('farebox_queue_given_up_total', '{}')$$, 'nothing is tried again');
select is(pg_temp.enqueue('good-', 3), 3::bigint, 'three good requests');
select count(*) from farebox.process_ticket_queue();
select is(pg_temp.counted(), '{0,0}', 'what succeeds is not counted');

-- A batch of 250 in which one fails: all are to be tried again, in smaller company.
select is(pg_temp.enqueue('bad-', 250, 'POISON'), 250::bigint, 'one is poison');
select is((select retried from farebox.process_ticket_queue(250)), 250, 'its batch is put back');
select is(pg_temp.counted(), '{250,0}', 'each of them is counted, though there are 200 marks');
delete from farebox.ticket_queue where request ->> 'monime_otp' <> 'POISON';
update farebox.ticket_queue set together = 1;
select is((select retried from farebox.process_ticket_queue()), 1, 'alone it fails');
select results_eq($$select labels, value from farebox.metrics_retries() where metric = 'farebox_queue_backoff'$$,
  $$values ('{"reason": "error_22012"}'::jsonb, 1::double precision)$$, 'it waits, with its reason');

-- Its second attempt begins and never ends, its third fails.
set local tap.now = '2025-06-01 08:01:00+00';
select farebox.begin_queued_request();
set local tap.now = '2025-06-01 08:02:00+00';
select count(*) from farebox.process_queued_request(farebox.begin_queued_request());
select results_eq('select pg_temp.counted(), (select count(*) from farebox.ticket_queue)', $$values ('{252,1}'::bigint[], 0::bigint)$$,
  'an attempt that never ended is counted when the next begins; the last is given up');

-- Privileges ---------------------------------------------------------------------------------------------------

select lives_ok(format('set local role %I; select farebox.metrics_retries(); reset role', r.role), r.role || ' may')
from unnest(array['farebox_worker', 'farebox_admin']) as r(role);
select throws_ok(format('set local role %I; select farebox.metrics_retries()', r.role), '42501', null, r.role || ' may not')
from unnest(array['farebox_app', 'farebox_company', 'pg_monitor']) as r(role);

select * from finish(true);
rollback;
