-- pause_company_queue: lets a company's queued requests wait until it is resumed.
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

select cardinality(pg_temp.enqueue('pay-1', 'pay-2'));
select count(*) from farebox.enqueue_tickets(json_build_array(pg_temp.payment('pay-3', 2)));
select isnt(farebox.begin_queued_request(), null, 'one is in backoff');
select is(farebox.pause_company_queue('c0000000-0000-7000-8000-000000000001'), 2::bigint, 'how many wait');
select is(farebox.pause_company_queue('c0000000-0000-7000-8000-000000000001'), 2::bigint, 'twice is as good as once');
set local tap.now = '2025-06-01 09:00:00+00';
select is(pg_temp.drain(), '1 created, 0 duplicates, 0 conflicts, 0 rejected, 0 dead', 'the others go on');
select cardinality(pg_temp.enqueue('pay-4'));
select is((select taken from farebox.process_ticket_queue()), 0, 'what comes later waits too');

-- A producer that had not seen the pause -----------------------------------------------------------------------

insert into farebox.ticket_queue (id, rank, enqueued_at, company_id, request)
select nextval('farebox.ticket_queue_ids'), (select last_value + 1 from farebox.ticket_queue_floor), farebox._now(),
  'c0000000-0000-7000-8000-000000000001', pg_temp.payment('pay-5');
select count(*) from farebox.enqueue_tickets(json_build_array(pg_temp.payment('pay-6', 2)));
select is(pg_temp.drain(1), '1 created, 0 duplicates, 0 conflicts, 0 rejected, 0 dead', 'its request is taken out of the line when it is met');
select is((select paused from farebox.queue_metrics()), 4::bigint, 'and waits with the others');
select is((select count(*) from farebox.ticket_queue where rank is not null), 0::bigint, 'so that no claim has to pass them');
select is_empty($$select from farebox.tickets where monime_transaction_id in ('pay-1', 'pay-2', 'pay-4', 'pay-5')$$, 'no ticket meanwhile');
select throws_ok('select farebox.pause_company_queue(null)', 'TK003', null, 'no company');

-- Privileges ---------------------------------------------------------------------------------------------------

select lives_ok(format('set local role %I; select farebox.pause_company_queue(''c0000000-0000-7000-8000-000000000001''); reset role', r.role), r.role || ' may')
from unnest(array['farebox_admin']) as r(role);
select throws_ok(format('set local role %I; select farebox.pause_company_queue(''c0000000-0000-7000-8000-000000000001'')', r.role), '42501', null, r.role || ' may not')
from unnest(array['farebox_app', 'farebox_worker', 'farebox_company', 'pg_monitor']) as r(role);

select * from finish(true);
rollback;
