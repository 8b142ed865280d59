-- list_queued_requests: requests that wait, oldest first.
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

create temp table ids as select i.id, i.ordinal from unnest(pg_temp.enqueue('pay-1', 'pay-2', 'pay-3')) with ordinality as i(id, ordinal);
insert into ids select e.queue_id, 3 + e.ordinal
from farebox.enqueue_tickets(json_build_array(pg_temp.payment(' pay-4 ', 2), 7, pg_temp.payment('pay-"5"', 2))) as e;
select is(farebox.begin_queued_request(), (select id from ids where ordinal = 1), 'one is begun');
select farebox.pause_company_queue('c0000000-0000-7000-8000-000000000002');

-- Which rows, by their ordinals.
create function pg_temp.listed(p_query text) returns text
language plpgsql as $$
declare
  v_list text;
begin
  execute format('select string_agg(i.ordinal::text, '','' order by l.place)
    from (select q.queue_id, row_number() over () as place from (%s) as q) as l join ids as i on i.id = l.queue_id', p_query) into v_list;
  return coalesce(v_list, '');
end
$$;
select results_eq(
  'select monime_transaction_id, company_id, state, attempts, reason, enqueued_at, ready_at is null, request::text from farebox.list_queued_requests()',
  $$values
    ('pay-1', 'c0000000-0000-7000-8000-000000000001'::uuid, 'delayed', 1, 'unfinished', farebox._now(), false, pg_temp.payment('pay-1')::text),
    ('pay-2', 'c0000000-0000-7000-8000-000000000001', 'ready', 0, null, farebox._now(), true, pg_temp.payment('pay-2')::text),
    ('pay-3', 'c0000000-0000-7000-8000-000000000001', 'ready', 0, null, farebox._now(), true, pg_temp.payment('pay-3')::text),
    ('pay-4', 'c0000000-0000-7000-8000-000000000002', 'paused', 0, null, farebox._now(), true, pg_temp.payment(' pay-4 ', 2)::text),
    (null, null, 'ready', 0, null, farebox._now(), true, '7'),
    ('pay-"5"', 'c0000000-0000-7000-8000-000000000002', 'paused', 0, null, farebox._now(), true, pg_temp.payment('pay-"5"', 2)::text)$$,
  'each as it came, with what it names and how it stands');
select is(pg_temp.listed('select queue_id from farebox.list_queued_requests(2)'), '1,2', 'the first page');
select is(pg_temp.listed('select queue_id from farebox.list_queued_requests(2, p_after_queue_id => (select id from ids where ordinal = 2))'), '3,4', 'the next');
select is(pg_temp.listed($$select queue_id from farebox.list_queued_requests(p_company_id => 'c0000000-0000-7000-8000-000000000002')$$), '4,6', 'of a company');
select is(pg_temp.listed($$select queue_id from farebox.list_queued_requests(p_transaction_id => 'pay-4')$$), '4', 'of a payment');
select is(pg_temp.listed($$select queue_id from farebox.list_queued_requests(p_transaction_id => ' pay-"5"')$$), '6', 'however it is written');
select is(pg_temp.listed($$select queue_id from farebox.list_queued_requests(p_state => 'ready')$$), '2,3,5', 'in line');
select is(pg_temp.listed($$select queue_id from farebox.list_queued_requests(p_state => 'delayed')$$), '1', 'in backoff');
select is(pg_temp.listed($$select queue_id from farebox.list_queued_requests(p_state => 'paused')$$), '4,6', 'paused');
select is(pg_temp.raised(format('select farebox.list_queued_requests(%s)', c.arguments)), c.said, c.arguments)
from (values
  ('0', 'TK003 the limit is 0 (pass a limit from 1 to 1000)'),
  ('1001', 'TK003 the limit is 1001 (pass a limit from 1 to 1000)'),
  ('null', 'TK003 the limit is null (pass a limit from 1 to 1000)'),
  ($$p_state => 'dead'$$, 'TK003 there is no such state (pass ready, delayed or paused)')
) as c(arguments, said);

-- Privileges ---------------------------------------------------------------------------------------------------

select lives_ok(format('set local role %I; select farebox.list_queued_requests(); reset role', r.role), r.role || ' may')
from unnest(array['farebox_admin']) as r(role);
select throws_ok(format('set local role %I; select farebox.list_queued_requests()', r.role), '42501', null, r.role || ' may not')
from unnest(array['farebox_app', 'farebox_worker', 'farebox_company', 'pg_monitor']) as r(role);

select * from finish(true);
rollback;
