-- queued_outcomes: what became of queued requests; no row for those that still wait.
begin;
select plan(19);

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

create temp table batch as
select ('[' || concat_ws(',', pg_temp.payment('pay-1'), pg_temp.payment('pay-1', 1, '{"amount": 7}'), pg_temp.payment('pay-2', 1, '{"amount": 0}'),
  pg_temp.payment('pay-1', 2), pg_temp.payment(''), '7', left(pg_temp.payment('pay-3')::text, -1) || ', "note": "\u0000"}',
  pg_temp.payment('pay-4', 1, '{"company_id": "x"}')) || ']')::json as requests;
create temp table ids as
select array(select e.queue_id from batch, farebox.enqueue_tickets(requests) as e order by e.ordinal) as ids;

select is_empty('select farebox.queued_outcomes(ids, requests) from ids, batch', 'all wait');
select cmp_ok((select last_value from farebox.ticket_queue_watch), '>', (date_part('epoch', clock_timestamp()) * 1000)::bigint, 'workers are asked to tell');
select is((select taken from farebox.process_ticket_queue(1)), 1, 'one is settled');
select results_eq('select ordinal, outcome, ticket_id is not null, transaction_recorded from ids, batch, farebox.queued_outcomes(ids, requests)',
  $$values (1, 'created', true, true)$$, 'its ticket');
select is(pg_temp.drain(), '1 created, 0 duplicates, 1 conflicts, 5 rejected, 0 dead', 'all are settled');
select results_eq(
  'select ordinal, outcome, reason, differing::text, ticket_id is not null, existing_ticket_id is not null from ids, batch, farebox.queued_outcomes(ids, requests)',
  $$values
    (1, 'created', null, null, true, false), (2, 'conflict', null, '{amount}', false, true), (3, 'rejected', 'amount_invalid', null, false, false),
    (4, 'rejected', 'transaction_id_unavailable', null, false, false), (5, 'rejected', 'transaction_id_invalid', null, false, false),
    (6, 'rejected', 'transaction_id_invalid', null, false, false), (7, 'created', null, null, true, false), (8, 'rejected', 'company_id_invalid', null, false, false)$$,
  'what create_tickets said, each');
select is((select monime_transaction_id from ids, batch, farebox.queued_outcomes(ids, requests) where ordinal = 1), 'pay-1', 'under its payment');

-- Given up, dropped --------------------------------------------------------------------------------------------

create temp table other as select pg_temp.enqueue('pay-5', 'pay-6') as ids, json_build_array(pg_temp.payment('pay-5'), pg_temp.payment('pay-6')) as requests;
update farebox.ticket_queue set attempts = 3, together = 1, reason = 'error_22012' where id = (select ids[1] from other);
select is((select count(*) from other, farebox.drop_queued_requests(array['queue:' || ids[2]])), 1::bigint, 'one is dropped');
select is(pg_temp.drain(), '0 created, 0 duplicates, 0 conflicts, 0 rejected, 1 dead', 'one given up');
select results_eq('select ordinal, outcome, reason from other, farebox.queued_outcomes(ids, requests)',
  $$values (1, 'rejected', 'error_22012'), (2, 'rejected', 'dropped')$$, 'each with its reason');

-- Misuse -------------------------------------------------------------------------------------------------------

select is(pg_temp.raised($$select farebox.queued_outcomes('{1,2}', '[{}]')$$), 'TK003 2 queue ids for 1 requests (pass the id of each request)', 'as many ids as requests');
select is(pg_temp.raised($$select farebox.queued_outcomes(null, '[{}]')$$), 'TK003 null queue ids for 1 requests (pass the id of each request)', 'no ids');
select throws_ok($$select farebox.queued_outcomes('{1}', '{}')$$, 'TK001', null, 'no array');
select is_empty($$select farebox.queued_outcomes('{}', '[]')$$, 'nothing asked, nothing answered');

-- Privileges ---------------------------------------------------------------------------------------------------

select lives_ok(format('set local role %I; select farebox.queued_outcomes(''{}'', ''[]''); reset role', r.role), r.role || ' may')
from unnest(array['farebox_app']) as r(role);
select throws_ok(format('set local role %I; select farebox.queued_outcomes(''{}'', ''[]'')', r.role), '42501', null, r.role || ' may not')
from unnest(array['farebox_worker', 'farebox_admin', 'farebox_company', 'pg_monitor']) as r(role);

select * from finish(true);
rollback;
