-- queue_size: how many requests are stored and not settled yet.
begin;
select plan(12);

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

select is(farebox.queue_size(), 0::bigint, 'none');
select cardinality(pg_temp.enqueue('pay-1', 'pay-2', 'pay-3'));
select is(farebox.queue_size(), 3::bigint, 'those in line');
select isnt(farebox.begin_queued_request(), null, 'one is begun');
select is(farebox.pause_company_queue('c0000000-0000-7000-8000-000000000001') + farebox.queue_size(), 6::bigint,
  'those in backoff and those paused count too');
select farebox.resume_company_queue('c0000000-0000-7000-8000-000000000001');
set local tap.now = '2025-06-01 09:00:00+00';
select is((select created from farebox.process_queued_request(farebox.begin_queued_request(true))), 1, 'it is processed');
select is(pg_temp.drain(), '2 created, 0 duplicates, 0 conflicts, 0 rejected, 0 dead', 'the others too');
select is(farebox.queue_size(), 0::bigint, 'settled ones do not count');

-- Privileges ---------------------------------------------------------------------------------------------------

select lives_ok(format('set local role %I; select farebox.queue_size(); reset role', r.role), r.role || ' may')
from unnest(array['farebox_app', 'farebox_admin']) as r(role);
select throws_ok(format('set local role %I; select farebox.queue_size()', r.role), '42501', null, r.role || ' may not')
from unnest(array['farebox_worker', 'farebox_company', 'pg_monitor']) as r(role);

select * from finish(true);
rollback;
