-- list_paused_companies: companies whose queued requests are paused.
begin;
select plan(8);

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

select is_empty('select * from farebox.list_paused_companies()', 'none');
select cardinality(pg_temp.enqueue('pay-1', 'pay-2'));
select farebox.pause_company_queue('c0000000-0000-7000-8000-000000000002');
set local tap.now = '2025-06-01 08:30:00+00';
select farebox.pause_company_queue('c0000000-0000-7000-8000-000000000001');
select results_eq('select * from farebox.list_paused_companies()',
  $$values ('c0000000-0000-7000-8000-000000000002'::uuid, '2025-06-01 08:00:00+00'::timestamptz, 0::bigint),
    ('c0000000-0000-7000-8000-000000000001', '2025-06-01 08:30:00+00', 2)$$,
  'longest paused first, with what waits');
select farebox.resume_company_queue('c0000000-0000-7000-8000-000000000002');
select is((select count(*) from farebox.list_paused_companies()), 1::bigint, 'until it is resumed');

-- Privileges ---------------------------------------------------------------------------------------------------

select lives_ok(format('set local role %I; select farebox.list_paused_companies(); reset role', r.role), r.role || ' may')
from unnest(array['farebox_admin']) as r(role);
select throws_ok(format('set local role %I; select farebox.list_paused_companies()', r.role), '42501', null, r.role || ' may not')
from unnest(array['farebox_app', 'farebox_worker', 'farebox_company', 'pg_monitor']) as r(role);

select * from finish(true);
rollback;
