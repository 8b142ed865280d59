-- queue_metrics: the state of the queue for monitoring, in one row.
begin;
select plan(15);

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
-- Processes until nothing is ready; the sums of the counts.
create function pg_temp.drain(p_limit int default 100) returns text
language plpgsql as $$
declare
  v_sum int[] := '{0,0,0,0,0,0,0}';
  v_counts record;
begin
  loop
    select * into v_counts from farebox.process_ticket_queue(p_limit);
    exit when v_counts.taken = 0;
    v_sum := array[v_sum[1] + v_counts.taken, v_sum[2] + v_counts.created, v_sum[3] + v_counts.duplicates, v_sum[4] + v_counts.conflicts,
      v_sum[5] + v_counts.rejected, v_sum[6] + v_counts.retried, v_sum[7] + v_counts.dead];
  end loop;
  return format('%s created, %s duplicates, %s conflicts, %s rejected, %s dead', v_sum[2], v_sum[3], v_sum[4], v_sum[5], v_sum[7]);
end
$$;

select results_eq('select size, oldest_age, ready, delayed, paused, by_attempts::text, dead from farebox.queue_metrics()',
  $$values (0::bigint, null::interval, 0::bigint, 0::bigint, 0::bigint, '{}', 0::bigint)$$, 'empty');
select cardinality(pg_temp.enqueue('pay-1', 'pay-2', 'pay-3'));
select count(*) from farebox.enqueue_tickets(json_build_array(pg_temp.payment('pay-4', 2)));
set local tap.now = '2025-06-01 08:00:10+00';
select cardinality(pg_temp.enqueue('pay-5'));
select results_eq('select size, oldest_age, ready, delayed, paused, by_attempts::jsonb, dead from farebox.queue_metrics()',
  $$values (5::bigint, interval '10 s', 5::bigint, 0::bigint, 0::bigint, '{"0": 5}'::jsonb, 0::bigint)$$, 'all in line, the oldest for ten seconds');
select isnt(farebox.begin_queued_request(), null, 'one is begun');
select farebox.pause_company_queue('c0000000-0000-7000-8000-000000000002');
select results_eq('select size, ready, delayed, paused, by_attempts::jsonb from farebox.queue_metrics()',
  $$values (5::bigint, 3::bigint, 1::bigint, 1::bigint, '{"0": 4, "1": 1}'::jsonb)$$, 'in line, in backoff, paused');
set local tap.now = '2025-06-01 08:00:11+00';
select results_eq('select ready, delayed from farebox.queue_metrics()', 'values (4::bigint, 0::bigint)', 'whose backoff is over is ready');
select count(*) from farebox.enqueue_tickets('[1, 2, 1]');
select is((select created from farebox.process_queued_request(farebox.begin_queued_request(true))), 1, 'it is processed');
select is(pg_temp.drain(), '3 created, 0 duplicates, 0 conflicts, 3 rejected, 0 dead', 'the others too');
select is((select dead from farebox.queue_metrics()), 2::bigint, 'what came to no ticket and is kept nowhere else');
insert into farebox.unapplied_payments (monime_transaction_id, request, reason)
values ('a', '{}', 'error_22012'), ('b', '{}', 'unfinished'), ('c', '{}', 'phone_invalid');
select is((select dead from farebox.queue_metrics()), 4::bigint, 'and what was given up');
select results_eq('select dead_tuples >= 0, oldest_xmin_age >= 0 from farebox.queue_metrics()', 'values (true, true)', 'what vacuum has to do');

-- Privileges ---------------------------------------------------------------------------------------------------

select lives_ok(format('set local role %I; select farebox.queue_metrics(); reset role', r.role), r.role || ' may')
from unnest(array['farebox_worker', 'farebox_admin']) as r(role);
select throws_ok(format('set local role %I; select farebox.queue_metrics()', r.role), '42501', null, r.role || ' may not')
from unnest(array['farebox_app', 'farebox_company', 'pg_monitor']) as r(role);

select * from finish(true);
rollback;
