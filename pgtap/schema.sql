-- The schema: tables, columns, types, constraints and signatures that other people's SQL depends on.
begin;
select plan(124);

-- Columns ------------------------------------------------------------------------------------------------------

-- Texts that are compared have collation "C"; null there is the default one, of texts that people read.
create temp table expected_column (relation text, name text, type text, presence text, value text, collation_name text);
insert into expected_column values
  ('companies', 'id', 'uuid', 'not null', 'farebox._uuid_v7()', NULL),
  ('companies', 'name', 'text', 'not null', NULL, NULL),
  ('companies', 'monime_account_id', 'text', 'null', NULL, NULL),
  ('companies', 'commission_rate', 'numeric(5,4)', 'not null', '0.05', NULL),
  ('companies', 'status', 'text', 'not null', '''active''::text', 'C'),
  ('companies', 'created_at', 'timestamp with time zone', 'not null', 'farebox._now()', NULL),
  ('routes', 'id', 'uuid', 'not null', 'farebox._uuid_v7()', NULL),
  ('routes', 'company_id', 'uuid', 'not null', NULL, NULL),
  ('routes', 'name', 'text', 'not null', NULL, NULL),
  ('routes', 'origin', 'text', 'not null', '''''::text', NULL),
  ('routes', 'destination', 'text', 'not null', '''''::text', NULL),
  ('routes', 'fare', 'bigint', 'not null', NULL, NULL),
  ('routes', 'status', 'text', 'not null', '''active''::text', 'C'),
  ('routes', 'created_at', 'timestamp with time zone', 'not null', 'farebox._now()', NULL),
  ('payment_codes', 'id', 'uuid', 'not null', 'farebox._uuid_v7()', NULL),
  ('payment_codes', 'company_id', 'uuid', 'not null', NULL, NULL),
  ('payment_codes', 'route_id', 'uuid', 'null', NULL, NULL),
  ('payment_codes', 'code', 'text', 'not null', NULL, 'C'),
  ('payment_codes', 'total_tickets', 'integer', 'not null', NULL, NULL),
  ('payment_codes', 'used_tickets', 'integer', 'not null', '0', NULL),
  ('payment_codes', 'status', 'text', 'not null', '''active''::text', 'C'),
  ('payment_codes', 'expires_at', 'timestamp with time zone', 'null', NULL, NULL),
  ('payment_codes', 'created_at', 'timestamp with time zone', 'not null', 'farebox._now()', NULL),
  ('tickets', 'id', 'uuid', 'not null', 'farebox._uuid_v7()', NULL),
  ('tickets', 'company_id', 'uuid', 'not null', NULL, NULL),
  ('tickets', 'route_id', 'uuid', 'not null', NULL, NULL),
  ('tickets', 'payment_code_id', 'uuid', 'null', NULL, NULL),
  ('tickets', 'amount', 'bigint', 'not null', NULL, NULL),
  ('tickets', 'created_at', 'timestamp with time zone', 'not null', 'farebox._now()', NULL),
  ('tickets', 'commission_rate', 'numeric(5,4)', 'not null', NULL, NULL),
  ('tickets', 'monime_transaction_id', 'text', 'not null', NULL, 'C'),
  ('tickets', 'passenger_phone', 'text', 'not null', NULL, 'C'),
  ('tickets', 'monime_otp', 'text', 'not null', NULL, 'C'),
  ('tickets', 'status', 'text', 'not null', '''pending''::text', 'C'),
  ('transactions', 'ticket_id', 'uuid', 'not null', NULL, NULL),
  ('transactions', 'company_id', 'uuid', 'not null', NULL, NULL),
  ('transactions', 'amount', 'bigint', 'not null', NULL, NULL),
  ('transactions', 'commission', 'bigint', 'not null', NULL, NULL),
  ('transactions', 'net_amount', 'bigint', 'not null', NULL, NULL),
  ('transactions', 'created_at', 'timestamp with time zone', 'not null', 'farebox._now()', NULL),
  ('transactions', 'status', 'text', 'not null', '''completed''::text', 'C'),
  ('unapplied_payments', 'monime_transaction_id', 'text', 'not null', NULL, 'C'),
  ('unapplied_payments', 'company_id', 'uuid', 'null', NULL, NULL),
  ('unapplied_payments', 'request', 'json', 'not null', NULL, NULL),
  ('unapplied_payments', 'reason', 'text', 'null', NULL, 'C'),
  ('unapplied_payments', 'first_seen_at', 'timestamp with time zone', 'not null', 'farebox._now()', NULL),
  ('unapplied_payments', 'last_seen_at', 'timestamp with time zone', 'not null', 'farebox._now()', NULL),
  ('unapplied_payments', 'attempts', 'integer', 'not null', '1', NULL),
  ('unapplied_payments', 'earlier_requests', 'json[]', 'not null', '''{}''::json[]', NULL),
  ('unapplied_payments', 'resolved_at', 'timestamp with time zone', 'null', NULL, NULL),
  ('unapplied_payments', 'ticket_id', 'uuid', 'null', NULL, NULL),
  ('ticket_queue', 'id', 'bigint', 'not null', NULL, NULL),
  ('ticket_queue', 'rank', 'bigint', 'null', NULL, NULL),
  ('ticket_queue', 'enqueued_at', 'timestamp with time zone', 'not null', NULL, NULL),
  ('ticket_queue', 'ready_at', 'timestamp with time zone', 'null', NULL, NULL),
  ('ticket_queue', 'company_id', 'uuid', 'not null', NULL, NULL),
  ('ticket_queue', 'attempts', 'smallint', 'not null', '0', NULL),
  ('ticket_queue', 'together', 'smallint', 'null', NULL, NULL),
  ('ticket_queue', 'reason', 'text', 'null', NULL, 'C'),
  ('ticket_queue', 'request', 'json', 'not null', NULL, NULL),
  ('ticket_queue_dead', 'id', 'bigint', 'not null', NULL, NULL),
  ('ticket_queue_dead', 'company_id', 'uuid', 'null', NULL, NULL),
  ('ticket_queue_dead', 'monime_transaction_id', 'text', 'null', NULL, 'C'),
  ('ticket_queue_dead', 'request', 'json', 'not null', NULL, NULL),
  ('ticket_queue_dead', 'reason', 'text', 'not null', NULL, 'C'),
  ('ticket_queue_dead', 'detail', 'text', 'null', NULL, NULL),
  ('ticket_queue_dead', 'times', 'integer', 'not null', '1', NULL),
  ('ticket_queue_dead', 'first_seen_at', 'timestamp with time zone', 'not null', NULL, NULL),
  ('ticket_queue_dead', 'last_seen_at', 'timestamp with time zone', 'not null', NULL, NULL),
  ('ticket_queue_dead', 'fingerprint', 'bytea', 'not null', NULL, NULL),
  ('ticket_queue_pauses', 'company_id', 'uuid', 'not null', NULL, NULL),
  ('ticket_queue_pauses', 'paused_at', 'timestamp with time zone', 'not null', NULL, NULL),
  ('tally', 'duplicates', 'smallint', 'not null', NULL, NULL),
  ('tally', 'conflicts', 'smallint', 'not null', NULL, NULL),
  ('tally', 'rejections', 'smallint', 'not null', NULL, NULL),
  ('tally', 'retries', 'smallint', 'not null', NULL, NULL),
  ('tally', 'given_up', 'smallint', 'not null', NULL, NULL),
  ('company_logins', 'login', 'name', 'not null', NULL, 'C'),
  ('company_logins', 'company_id', 'uuid', 'not null', NULL, NULL),
  ('company_logins', 'created_at', 'timestamp with time zone', 'not null', 'farebox._now()', NULL);
select set_eq(
  format($$select a.attname::text as name, format_type(a.atttypid, a.atttypmod) as type, case when a.attnotnull then 'not null' else 'null' end as presence,
      pg_get_expr(d.adbin, d.adrelid) as value, case when a.attcollation = '"C"'::regcollation then 'C' end as collation_name
    from pg_attribute as a
    left join pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where a.attrelid = 'farebox.%I'::regclass and a.attnum > 0 and not a.attisdropped$$, e.relation),
  format('select name, type, presence, value, collation_name from expected_column where relation = %L', e.relation),
  'columns of ' || e.relation)
from (select distinct relation from expected_column order by relation) as e;

-- Constraints --------------------------------------------------------------------------------------------------

select set_eq(
  format($$select conname::text from pg_constraint where conrelid = 'farebox.%I'::regclass and contype <> 'n'$$, e.relation), e.names,
  'constraints of ' || e.relation)
from (values
  ('companies', array['companies_pkey', 'companies_name_is_present', 'companies_commission_rate_is_a_share', 'companies_status_is_known']),
  ('company_logins', array['company_logins_pkey', 'company_logins_company_exists']),
  ('payment_codes', array['payment_codes_pkey', 'payment_codes_company_exists', 'payment_codes_route_exists', 'payment_codes_code_is_dialable',
    'payment_codes_total_is_positive', 'payment_codes_used_is_within_total', 'payment_codes_status_is_known']),
  ('routes', array['routes_pkey', 'routes_company_exists', 'routes_name_is_present', 'routes_fare_is_in_range', 'routes_status_is_known']),
  ('ticket_queue', array['ticket_queue_pkey', 'ticket_queue_in_line_or_delayed', 'ticket_queue_attempts_are_few', 'ticket_queue_together_is_positive']),
  ('ticket_queue_dead', array['ticket_queue_dead_pkey', 'ticket_queue_dead_is_kept_once', 'ticket_queue_dead_times_is_positive']),
  ('ticket_queue_pauses', array['ticket_queue_pauses_pkey']),
  ('tickets', array['tickets_pkey', 'tickets_amount_is_in_range', 'tickets_commission_rate_is_a_share', 'tickets_status_is_known']),
  ('transactions', array['transactions_pkey', 'transactions_commission_is_within_amount', 'transactions_net_amount_is_the_rest',
    'transactions_status_is_known']),
  ('unapplied_payments', array['unapplied_payments_pkey', 'unapplied_payments_attempts_is_positive', 'unapplied_payments_open_has_reason',
    'unapplied_payments_resolved_has_ticket'])
) as e(relation, names);
select is_empty(
  $$select conrelid::regclass, conname from pg_constraint
    where connamespace = 'farebox'::regnamespace and contype <> 'n' and conname ~ '_(check|fkey|key|excl)[0-9]*$'$$,
  'no constraint bears a name that PostgreSQL made up');
select is_empty(
  $$select conname from pg_constraint where conrelid in ('farebox.tickets'::regclass, 'farebox.transactions'::regclass) and contype = 'f'$$,
  'tickets and records pay for no foreign key');
select col_is_pk('farebox', t.relation, t.key, format('%s is the key of %s', t.key, t.relation))
from (values ('companies', 'id'), ('routes', 'id'), ('payment_codes', 'id'), ('tickets', 'id'), ('transactions', 'ticket_id'),
  ('unapplied_payments', 'monime_transaction_id'), ('company_logins', 'login'), ('ticket_queue', 'id'), ('ticket_queue_dead', 'id'),
  ('ticket_queue_pauses', 'company_id')) as t(relation, key);

insert into farebox.companies (id, name) values ('c0000000-0000-7000-8000-000000000001', 'Cotton Tree');
insert into farebox.routes (id, company_id, name, fare) values
  ('d0000000-0000-7000-8000-000000000001', 'c0000000-0000-7000-8000-000000000001', 'Freetown - Bo', 5000);
insert into farebox.payment_codes (id, company_id, code, total_tickets) values
  ('f0000000-0000-7000-8000-000000000001', 'c0000000-0000-7000-8000-000000000001', 'CODE', 2);
insert into farebox.tickets (id, company_id, route_id, amount, commission_rate, monime_transaction_id, passenger_phone, monime_otp) values
  ('e0000000-0000-7000-8000-000000000001', 'c0000000-0000-7000-8000-000000000001', 'd0000000-0000-7000-8000-000000000001', 5000, 0.05,
   'pay-1', '+23276123456', '482913');
insert into farebox.transactions (ticket_id, company_id, amount, commission, net_amount) values
  ('e0000000-0000-7000-8000-000000000001', 'c0000000-0000-7000-8000-000000000001', 5000, 250, 4750);
insert into farebox.unapplied_payments (monime_transaction_id, request, reason) values ('pay-2', '{}', 'phone_invalid');
insert into farebox.ticket_queue (id, rank, enqueued_at, company_id, request) values (1, 1, now(), 'c0000000-0000-7000-8000-000000000001', '{}');
insert into farebox.ticket_queue_dead (id, request, reason, first_seen_at, last_seen_at, fingerprint) values (2, '{}', 'conflict', now(), now(), 'x');

select throws_ok(format('update farebox.%I set %s', c.relation, c.change), '23514',
  format('new row for relation "%s" violates check constraint "%s"', c.relation, c.name), format('%s: %s', c.name, c.change))
from (values
  ('companies', 'companies_name_is_present', $$name = '  '$$),
  ('companies', 'companies_commission_rate_is_a_share', 'commission_rate = 1.0001'),
  ('companies', 'companies_commission_rate_is_a_share', 'commission_rate = -0.0001'),
  ('companies', 'companies_status_is_known', $$status = 'inactive'$$),
  ('routes', 'routes_name_is_present', $$name = ''$$),
  ('routes', 'routes_fare_is_in_range', 'fare = 0'),
  ('routes', 'routes_fare_is_in_range', 'fare = 1000000000001'),
  ('routes', 'routes_status_is_known', $$status = 'suspended'$$),
  ('payment_codes', 'payment_codes_code_is_dialable', $$code = ' CODE'$$),
  ('payment_codes', 'payment_codes_code_is_dialable', $$code = ''$$),
  ('payment_codes', 'payment_codes_code_is_dialable', $$code = repeat('x', 65)$$),
  ('payment_codes', 'payment_codes_used_is_within_total', 'used_tickets = 3'),
  ('payment_codes', 'payment_codes_used_is_within_total', 'used_tickets = -1'),
  ('payment_codes', 'payment_codes_status_is_known', $$status = 'used'$$),
  ('tickets', 'tickets_amount_is_in_range', 'amount = 0'),
  ('tickets', 'tickets_amount_is_in_range', 'amount = 1000000000001'),
  ('tickets', 'tickets_commission_rate_is_a_share', 'commission_rate = 1.0001'),
  ('tickets', 'tickets_status_is_known', $$status = 'active'$$),
  ('transactions', 'transactions_commission_is_within_amount', 'commission = 5001, net_amount = -1'),
  ('transactions', 'transactions_commission_is_within_amount', 'commission = -1, net_amount = 5001'),
  ('transactions', 'transactions_net_amount_is_the_rest', 'net_amount = 4749'),
  ('transactions', 'transactions_status_is_known', $$status = 'pending'$$),
  ('ticket_queue', 'ticket_queue_in_line_or_delayed', 'ready_at = now()'),
  ('ticket_queue', 'ticket_queue_attempts_are_few', 'attempts = 5'),
  ('ticket_queue', 'ticket_queue_attempts_are_few', 'attempts = -1'),
  ('ticket_queue', 'ticket_queue_together_is_positive', 'together = 0'),
  ('ticket_queue_dead', 'ticket_queue_dead_times_is_positive', 'times = 0'),
  ('unapplied_payments', 'unapplied_payments_attempts_is_positive', 'attempts = 0'),
  ('unapplied_payments', 'unapplied_payments_open_has_reason', 'reason = null'),
  ('unapplied_payments', 'unapplied_payments_resolved_has_ticket', 'resolved_at = now()'),
  ('unapplied_payments', 'unapplied_payments_resolved_has_ticket', 'ticket_id = farebox._uuid_v7()')
) as c(relation, name, change);
select throws_ok($$insert into farebox.payment_codes (company_id, code, total_tickets, used_tickets) values
    ('c0000000-0000-7000-8000-000000000001', 'NONE', 0, 0)$$, '23514', null, 'payment_codes_total_is_positive: total_tickets = 0');
select throws_ok(format('update farebox.%I set %s', c.relation, c.change), '23503', null, c.relation || ': ' || c.change)
from (values
  ('routes', $$company_id = 'c0000000-0000-7000-8000-000000000009'$$),
  ('payment_codes', $$company_id = 'c0000000-0000-7000-8000-000000000009'$$),
  ('payment_codes', $$route_id = 'd0000000-0000-7000-8000-000000000009'$$)
) as c(relation, change);
select throws_ok($$insert into farebox.tickets (company_id, route_id, amount, commission_rate, monime_transaction_id, passenger_phone, monime_otp)
    values ('c0000000-0000-7000-8000-000000000002', 'd0000000-0000-7000-8000-000000000002', 1, 0, 'pay-1', '+23276123456', '482913')$$,
  '23505', null, 'one payment, one ticket, over all companies');
select throws_ok($$insert into farebox.payment_codes (company_id, code, total_tickets) values ('c0000000-0000-7000-8000-000000000001', 'CODE', 1)$$,
  '23505', null, 'a code is unique on the platform');
select throws_ok($$insert into farebox.ticket_queue_dead (id, request, reason, first_seen_at, last_seen_at, fingerprint)
    values (3, '{}', 'conflict', now(), now(), 'x')$$, '23505', null, 'a dead request is kept once for each reason');

-- Types and signatures -----------------------------------------------------------------------------------------

select is(
  (select string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ', ' order by a.attnum)
    from pg_attribute as a where a.attrelid = ('farebox.' || t.name)::regclass and a.attnum > 0),
  t.attributes, 'type ' || t.name)
from (values
  ('ticket_outcome', 'ordinal integer, monime_transaction_id text, outcome text, reason text, ticket_id uuid, existing_ticket_id uuid, '
    'differing text[], transaction_recorded boolean'),
  ('catalog_outcome', 'ordinal integer, id uuid, outcome text, reason text'),
  ('ticket_view', 'id uuid, company_id uuid, route_id uuid, passenger_phone text, monime_transaction_id text, monime_otp text, '
    'payment_code_id uuid, payment_code text, amount bigint, commission_rate numeric(5,4), status text, created_at timestamp with time zone'),
  ('violation', 'invariant text, subject text, detail text')
) as t(name, attributes);

select is(
  (select string_agg(format('(%s) returns %s', pg_get_function_arguments(p.oid), pg_get_function_result(p.oid)), '; ')
    from pg_proc as p where p.pronamespace = 'farebox'::regnamespace and p.proname = f.name),
  format('(%s) returns %s', f.arguments, f.result), 'signature of ' || f.name)
from (values
  ('analyze_tables', 'p_share double precision DEFAULT 0.1', 'SETOF text'),
  ('apply_unapplied_payments', 'p_limit integer DEFAULT 1000, p_reason text DEFAULT NULL::text', 'SETOF farebox.ticket_outcome'),
  ('begin_queued_request', 'p_unfinished_only boolean DEFAULT false', 'bigint'),
  ('bind_company_login', 'p_login name, p_company_id uuid', 'void'),
  ('cancel_payment_codes', 'p_batch json', 'SETOF farebox.catalog_outcome'),
  ('company_summary',
    'p_company_id uuid, p_from timestamp with time zone DEFAULT NULL::timestamp with time zone, '
    'p_to timestamp with time zone DEFAULT NULL::timestamp with time zone',
    'TABLE(company_id uuid, tickets bigint, pending bigint, used bigint, expired bigint, '
      'cancelled bigint, gross bigint, commission bigint, net_amount bigint)'),
  ('create_ticket', 'p_ticket json', 'SETOF farebox.ticket_outcome'),
  ('create_tickets', 'p_batch json', 'SETOF farebox.ticket_outcome'),
  ('drain_ticket_queue', 'IN p_limit integer DEFAULT 100, IN p_batches integer DEFAULT 10000', ''),
  ('drop_queued_requests', 'p_keys text[]', 'TABLE(key text, company_id uuid, monime_transaction_id text, reason text, request json)'),
  ('enqueue_tickets', 'p_batch json', 'TABLE(ordinal integer, queue_id bigint)'),
  ('expire_payment_codes', 'p_limit integer DEFAULT 1000', 'integer'),
  ('get_company', 'p_company_id uuid', 'SETOF farebox.companies'),
  ('get_payment_code', 'p_company_id uuid, p_code text', 'SETOF farebox.payment_codes'),
  ('get_route', 'p_company_id uuid, p_route_id uuid', 'SETOF farebox.routes'),
  ('get_ticket', 'p_ticket_id uuid, p_company_id uuid DEFAULT NULL::uuid', 'SETOF farebox.ticket_view'),
  ('issue_payment_codes', 'p_batch json', 'SETOF farebox.catalog_outcome'),
  ('list_companies', 'p_limit integer DEFAULT 100, p_after_id uuid DEFAULT NULL::uuid', 'SETOF farebox.companies'),
  ('list_dead_requests',
    'p_limit integer DEFAULT 100, p_company_id uuid DEFAULT NULL::uuid, p_transaction_id text DEFAULT NULL::text, p_reason text DEFAULT NULL::text, '
    'p_after_last_seen_at timestamp with time zone DEFAULT NULL::timestamp with time zone, p_after_key text DEFAULT NULL::text',
    'TABLE(key text, company_id uuid, monime_transaction_id text, reason text, detail text, attempts integer, '
      'first_seen_at timestamp with time zone, last_seen_at timestamp with time zone, request json)'),
  ('list_paused_companies', '', 'TABLE(company_id uuid, paused_at timestamp with time zone, waiting bigint)'),
  ('list_payment_codes', 'p_company_id uuid, p_limit integer DEFAULT 100, p_after_id uuid DEFAULT NULL::uuid', 'SETOF farebox.payment_codes'),
  ('list_queued_requests',
    'p_limit integer DEFAULT 100, p_company_id uuid DEFAULT NULL::uuid, p_transaction_id text DEFAULT NULL::text, p_state text DEFAULT NULL::text, '
    'p_after_queue_id bigint DEFAULT NULL::bigint',
    'TABLE(queue_id bigint, company_id uuid, monime_transaction_id text, state text, attempts integer, reason text, '
      'enqueued_at timestamp with time zone, ready_at timestamp with time zone, request json)'),
  ('list_routes', 'p_company_id uuid, p_limit integer DEFAULT 100, p_after_id uuid DEFAULT NULL::uuid', 'SETOF farebox.routes'),
  ('list_unapplied_payments',
    'p_limit integer DEFAULT 100, p_reason text DEFAULT NULL::text, '
    'p_after_last_seen_at timestamp with time zone DEFAULT NULL::timestamp with time zone, '
    'p_after_transaction_id text DEFAULT NULL::text, p_include_resolved boolean DEFAULT false',
    'SETOF farebox.unapplied_payments'),
  ('metrics_activity', 'p_tickets integer DEFAULT 1000',
    'TABLE(kind text, id uuid, name text, tickets bigint, used integer, total integer, queued bigint, oldest_age interval)'),
  ('metrics_batches', '', 'TABLE(metric text, labels jsonb, value double precision)'),
  ('metrics_codes', '', 'TABLE(metric text, labels jsonb, value double precision)'),
  ('metrics_server', '', 'TABLE(metric text, labels jsonb, value double precision)'),
  ('metrics_storage', '', 'TABLE(metric text, labels jsonb, value double precision)'),
  ('metrics_tickets', '', 'TABLE(metric text, labels jsonb, value double precision)'),
  ('metrics_unapplied', '', 'TABLE(metric text, labels jsonb, value double precision)'),
  ('pause_company_queue', 'p_company_id uuid', 'bigint'),
  ('pending_tickets',
    'p_company_id uuid, p_limit integer DEFAULT 100, '
    'p_after_created_at timestamp with time zone DEFAULT NULL::timestamp with time zone, p_after_id uuid DEFAULT NULL::uuid',
    'SETOF farebox.ticket_view'),
  ('process_queued_request', 'p_queue_id bigint',
    'TABLE(taken integer, created integer, duplicates integer, conflicts integer, rejected integer, retried integer, dead integer)'),
  ('process_ticket_queue', 'p_limit integer DEFAULT 100',
    'TABLE(taken integer, created integer, duplicates integer, conflicts integer, rejected integer, retried integer, dead integer)'),
  ('purge_dead_requests', 'p_before timestamp with time zone, p_limit integer DEFAULT 1000', 'integer'),
  ('purge_unapplied_payments', 'p_before timestamp with time zone, p_limit integer DEFAULT 1000', 'integer'),
  ('queue_metrics', '',
    'TABLE(size bigint, oldest_age interval, ready bigint, delayed bigint, paused bigint, by_attempts json, dead bigint, '
      'dead_tuples bigint, oldest_xmin_age bigint)'),
  ('queue_size', '', 'bigint'),
  ('queued_outcomes', 'p_queue_ids bigint[], p_batch json', 'SETOF farebox.ticket_outcome'),
  ('record_missing_transactions', 'p_limit integer DEFAULT 1000', 'integer'),
  ('resume_company_queue', 'p_company_id uuid', 'bigint'),
  ('retry_queued_requests', 'p_keys text[]', 'TABLE(key text, queue_id bigint)'),
  ('tickets_by_phone',
    'p_company_id uuid, p_phone text, p_limit integer DEFAULT 50, '
    'p_before_created_at timestamp with time zone DEFAULT NULL::timestamp with time zone, p_before_id uuid DEFAULT NULL::uuid',
    'SETOF farebox.ticket_view'),
  ('upsert_companies', 'p_batch json', 'SETOF farebox.catalog_outcome'),
  ('upsert_routes', 'p_batch json', 'SETOF farebox.catalog_outcome'),
  ('verify', '', 'SETOF farebox.violation')
) as f(name, arguments, result);
select is_empty(
  $$select p.oid::regprocedure from pg_proc as p
    where p.pronamespace = 'farebox'::regnamespace and p.proname !~ '^_' and p.provolatile = 'v'
      and p.proname ~ '^(get|list|tickets_by|pending|company_summary|queue_|metrics_|verify)'$$,
  'what only reads is stable, so that it may run on a replica');
select is_empty(
  $$select p.oid::regprocedure from pg_proc as p
    where p.pronamespace = 'farebox'::regnamespace and p.proname !~ '^_' and p.provolatile <> 'v'
      and p.proname ~ '^(create|record|apply|upsert|issue|cancel|expire|bind|enqueue|process|begin|drain|retry|drop|pause|resume|purge)'$$,
  'what writes is volatile: each statement sees what was committed before it');

select * from finish(true);
rollback;
