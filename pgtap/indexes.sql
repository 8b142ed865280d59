-- The indexes: those the contract names are there, serve the query they are for, and cost nothing they need not cost.
begin;
select plan(30);

-- The contract -------------------------------------------------------------------------------------------------

select is(pg_get_indexdef(format('farebox.%I', i.name)::regclass), i.definition, i.name)
from (values
  ('idx_tickets_transaction_lookup',
    'CREATE UNIQUE INDEX idx_tickets_transaction_lookup ON farebox.tickets USING btree (monime_transaction_id)'),
  ('idx_tickets_company_status_created',
    'CREATE INDEX idx_tickets_company_status_created ON farebox.tickets USING btree (company_id, status, created_at)'),
  ('idx_tickets_pending',
    'CREATE INDEX idx_tickets_pending ON farebox.tickets USING btree (created_at) WHERE (status = ''pending''::text)'),
  ('idx_tickets_phone_company',
    'CREATE INDEX idx_tickets_phone_company ON farebox.tickets USING btree (passenger_phone, company_id)'),
  ('idx_payment_codes_update',
    'CREATE UNIQUE INDEX idx_payment_codes_update ON farebox.payment_codes USING btree (code)')
) as i(name, definition);
select is_empty(
  $$select indexrelid::regclass from pg_index as i join pg_class as c on c.oid = i.indrelid
    where c.relnamespace = 'farebox'::regnamespace and not (i.indisvalid and i.indisready and i.indislive)$$,
  'every index is valid');

-- Each serves its query ----------------------------------------------------------------------------------------

-- Which indexes a statement went by, and which tables it read from end to end.
create function pg_temp.read_by(p_statement text) returns text[]
language plpgsql as $$
declare
  v_before jsonb;
begin
  select jsonb_object_agg(c.oid, pg_stat_get_xact_numscans(c.oid)) into v_before
  from pg_class as c where c.relnamespace = 'farebox'::regnamespace and c.relkind in ('r', 'i');
  execute p_statement;
  return array(
    select case c.relkind when 'r' then 'all of ' else '' end || c.relname
    from pg_class as c
    where c.relnamespace = 'farebox'::regnamespace and c.relkind in ('r', 'i')
      and pg_stat_get_xact_numscans(c.oid) > (v_before ->> c.oid::text)::bigint
    order by c.relkind, c.relname);
end
$$;
-- The indexes in the plan of a query, when a small table does not tempt the planner.
create function pg_temp.planned_by(p_query text) returns text[]
language plpgsql as $$
declare
  v_plan json;
begin
  set local enable_seqscan = off;
  set local enable_bitmapscan = off;
  execute 'explain (format json) ' || p_query into v_plan;
  set local enable_seqscan = on;
  set local enable_bitmapscan = on;
  return array(
    select node #>> '{}'
    from jsonb_path_query(v_plan::jsonb, 'strict $.**."Index Name"') as node order by 1);
end
$$;

-- Sizes that an earlier ANALYZE noted stay, also when it was rolled back; a truncated table has none.
truncate farebox.companies, farebox.routes, farebox.payment_codes, farebox.company_logins, farebox.tickets, farebox.transactions,
  farebox.unapplied_payments;
insert into farebox.companies (id, name) values ('c0000000-0000-7000-8000-000000000001', 'Cotton Tree');
insert into farebox.routes (id, company_id, name, fare) values
  ('d0000000-0000-7000-8000-000000000001', 'c0000000-0000-7000-8000-000000000001', 'Freetown - Bo', 5000);
insert into farebox.payment_codes (company_id, code, total_tickets) values ('c0000000-0000-7000-8000-000000000001', 'CODE', 100);
create temp table batch as
select json_agg(json_build_object('company_id', 'c0000000-0000-7000-8000-000000000001', 'route_id', 'd0000000-0000-7000-8000-000000000001',
  'passenger_phone', '+23276123456', 'monime_otp', '482913', 'amount', 5000, 'payment_code', case when n % 2 = 0 then 'CODE' end,
  'monime_transaction_id', 'pay-' || n)) as payments
from generate_series(1, 20) as n;

-- On a database that is empty and was never analysed, as on a full one.
select is(
  (select array_agg(r.name) from unnest(pg_temp.read_by(c.call)) as r(name)
    where r.name like 'all of %' or r.name = any (c.by)),
  c.by, c.what)
from (values
  ('create_tickets: creates go by index', 'select farebox.create_tickets(payments) from batch',
    '{idx_payment_codes_update,payment_codes_pkey}'::text[]),
  ('create_tickets: duplicates too', 'select farebox.create_tickets(payments) from batch', '{idx_tickets_transaction_lookup}'),
  ('create_tickets: conflicts too',
    $$select farebox.create_tickets(replace(payments::text, '+23276123456', '+23276123457')::json) from batch$$, '{idx_tickets_transaction_lookup}'),
  ('create_tickets: rejections too',
    $$select farebox.create_tickets(replace(payments::text, 'pay-', 'masked-')::json) from (
      select replace(payments::text, '+23276123456', '+23276***456')::json as payments from batch) as b$$, '{unapplied_payments_pkey}'),
  ('create_tickets: kept payments that become tickets too',
    $$select farebox.create_tickets(replace(payments::text, 'pay-', 'masked-')::json) from batch$$, '{unapplied_payments_pkey}'),
  ('create_ticket: by index', 'select farebox.create_ticket(payments -> 2) from batch', '{idx_tickets_transaction_lookup}'),
  ('get_ticket: by its id', $$select farebox.get_ticket('e0000000-0000-7000-8000-000000000001')$$, '{tickets_pkey}'),
  ('tickets_by_phone: by phone and company',
    $$select farebox.tickets_by_phone('c0000000-0000-7000-8000-000000000001', '+23276123456')$$, '{idx_tickets_phone_company}'),
  ('pending_tickets: by company, status and time',
    $$select farebox.pending_tickets('c0000000-0000-7000-8000-000000000001')$$, '{idx_tickets_company_status_created}')
) as c(what, call, by);

select is(pg_temp.planned_by(c.query), array[c.name], c.name || ': ' || c.what)
from (values
  ('idx_tickets_transaction_lookup', 'idempotency', $$select * from farebox.tickets where monime_transaction_id = 'pay-1'$$),
  ('idx_tickets_company_status_created', 'dashboards',
    $$select status, count(*) from farebox.tickets where company_id = 'c0000000-0000-7000-8000-000000000001'
      and created_at >= '2025-01-01' and created_at < '2026-01-01' group by status$$),
  ('idx_tickets_company_status_created', 'a company''s pending tickets, oldest first, without a sort',
    $$select * from farebox.tickets where company_id = 'c0000000-0000-7000-8000-000000000001' and status = 'pending' order by created_at limit 100$$),
  ('idx_tickets_pending', 'sweeps over all companies, oldest first',
    $$select * from farebox.tickets where status = 'pending' and created_at < '2025-01-01' order by created_at limit 100$$),
  ('idx_tickets_phone_company', 'a passenger''s tickets',
    $$select * from farebox.tickets where passenger_phone = '+23276123456' and company_id = 'c0000000-0000-7000-8000-000000000001'$$),
  ('idx_payment_codes_update', 'the code to charge', $$select * from farebox.payment_codes where code = 'CODE'$$),
  ('idx_payment_codes_company', 'a company''s codes',
    $$select * from farebox.payment_codes where company_id = 'c0000000-0000-7000-8000-000000000001' order by id limit 100$$),
  ('idx_payment_codes_expiry', 'codes whose time is over', $$select id from farebox.payment_codes where expires_at <= now()$$),
  ('idx_routes_company', 'a company''s routes',
    $$select * from farebox.routes where company_id = 'c0000000-0000-7000-8000-000000000001' order by id limit 100$$),
  ('idx_unapplied_payments_open', 'open payments, tried longest ago first',
    $$select * from farebox.unapplied_payments where resolved_at is null order by last_seen_at limit 100$$)
) as c(name, what, query);

-- What they cost -----------------------------------------------------------------------------------------------

-- One index makes another redundant when its first columns are the other's, over as many rows; a unique one is never redundant.
select is_empty(
  $$select less.indexrelid::regclass, more.indexrelid::regclass
    from pg_index as less
    join pg_index as more on more.indrelid = less.indrelid and more.indexrelid <> less.indexrelid
    join pg_class as c on c.oid = less.indrelid and c.relnamespace = 'farebox'::regnamespace
    where not less.indisunique
      and (more.indkey::text || ' ') like (less.indkey::text || ' %')
      and (more.indpred is null or pg_get_expr(more.indpred, more.indrelid) is not distinct from pg_get_expr(less.indpred, less.indrelid))
      and less.indexprs is null and more.indexprs is null$$,
  'no index is redundant with another');
select is_empty(
  $$select d.objid::regclass, a.attname
    from pg_depend as d
    join pg_class as i on i.oid = d.objid and d.classid = 'pg_class'::regclass and i.relkind = 'i'
    join pg_attribute as a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
    where d.refobjid = 'farebox.payment_codes'::regclass and a.attname in ('used_tickets', 'status')$$,
  'no index has what changes when a code is charged in its key or predicate');
select is(
  pg_stat_get_xact_tuples_hot_updated('farebox.payment_codes'::regclass), pg_stat_get_xact_tuples_updated('farebox.payment_codes'::regclass),
  'charging a code is a HOT update');
select cmp_ok(pg_stat_get_xact_tuples_updated('farebox.payment_codes'::regclass), '>', 0::bigint, 'and codes were charged here');
select is_empty(
  $$select i.indexrelid::regclass
    from pg_index as i
    join pg_class as c on c.oid = i.indexrelid and c.relnamespace = 'farebox'::regnamespace
    cross join generate_subscripts(i.indcollation, 1) as k
    where i.indcollation[k] not in (0, '"C"'::regcollation)$$,
  'no index hangs on the system''s collations, which change under a server');

select * from finish(true);
rollback;
