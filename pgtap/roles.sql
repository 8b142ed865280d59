-- Who may do what, from the catalog: group roles without login, one owner, pinned functions, nothing for PUBLIC.
begin;
select plan(19);

-- Roles --------------------------------------------------------------------------------------------------------

select ok(not (r.rolcanlogin or r.rolsuper or r.rolcreaterole or r.rolcreatedb or r.rolreplication or r.rolbypassrls),
  r.rolname || ' cannot log in and has no power of its own')
from pg_roles as r where r.rolname in ('farebox_owner', 'farebox_app', 'farebox_worker', 'farebox_company', 'farebox_admin') order by r.rolname;
select is_empty(
  $$select m.roleid::regrole, m.member::regrole from pg_auth_members as m
    where m.member in ('farebox_app'::regrole, 'farebox_worker'::regrole, 'farebox_company'::regrole, 'farebox_admin'::regrole, 'farebox_owner'::regrole)$$,
  'none of them is a member of another role');

-- The owner ----------------------------------------------------------------------------------------------------

select is_empty(
  $$select * from (
      select 'schema' as kind, nspname::text as name, nspowner as owner from pg_namespace where nspname = 'farebox'
      union all select 'relation', relname, relowner from pg_class where relnamespace = 'farebox'::regnamespace
      union all select 'function', proname, proowner from pg_proc where pronamespace = 'farebox'::regnamespace
      union all select 'type', typname, typowner from pg_type where typnamespace = 'farebox'::regnamespace) as o
    where o.owner <> 'farebox_owner'::regrole$$,
  'all of the schema belongs to farebox_owner');
select is_empty(
  $$select oid::regprocedure from pg_proc
    where pronamespace = 'farebox'::regnamespace and (prosecdef or prokind = 'f' and proname !~ '^_')
      and not coalesce(proconfig @> array['search_path=pg_catalog, pg_temp'], false)$$,
  'a public function, and any that runs with its owner''s rights, pins its search_path, temporary objects last');
-- The others run where their caller has pinned the path, or refuse to be called by anybody else.
select is_empty(
  $$select p.oid::regprocedure, r.name from pg_proc as p
    cross join unnest(array['farebox_app', 'farebox_worker', 'farebox_company', 'farebox_admin', 'pg_monitor']) as r(name)
    where p.pronamespace = 'farebox'::regnamespace and p.proname ~ '^_' and has_function_privilege(r.name, p.oid, 'execute')
      and (r.name, p.proname) not in (('farebox_company', '_login_company'), ('farebox_admin', '_uuid_v7'), ('farebox_admin', '_now'))$$,
  'internal functions are the owner''s alone, but for what a policy and the defaults of tables call');
select is_empty(
  $$select t.tgrelid::regclass, t.tgname, p.oid::regprocedure from pg_trigger as t
    join pg_class as c on c.oid = t.tgrelid and c.relnamespace = 'farebox'::regnamespace
    join pg_proc as p on p.oid = t.tgfoid
    where not t.tgisinternal and not coalesce(p.proconfig @> array['search_path=pg_catalog, pg_temp'], false)$$,
  'the functions of triggers pin their search_path: whoever writes to the table calls them');

-- Functions ----------------------------------------------------------------------------------------------------

create temp table allowed (name text, roles text[]);
insert into allowed values
  ('create_tickets', '{farebox_app}'),
  ('create_ticket', '{farebox_app}'),
  ('get_ticket', '{farebox_app}'),
  ('tickets_by_phone', '{farebox_app}'),
  ('pending_tickets', '{farebox_app}'),
  ('company_summary', '{farebox_app}'),
  ('list_companies', '{farebox_admin,farebox_app}'),
  ('list_routes', '{farebox_admin,farebox_app}'),
  ('list_payment_codes', '{farebox_admin,farebox_app}'),
  ('get_company', '{farebox_admin,farebox_app}'),
  ('get_route', '{farebox_admin,farebox_app}'),
  ('get_payment_code', '{farebox_admin,farebox_app}'),
  ('record_missing_transactions', '{farebox_admin,farebox_worker}'),
  ('apply_unapplied_payments', '{farebox_admin,farebox_worker}'),
  ('expire_payment_codes', '{farebox_admin,farebox_worker}'),
  ('verify', '{farebox_admin,farebox_worker}'),
  ('analyze_tables', '{farebox_admin,farebox_worker}'),
  ('purge_unapplied_payments', '{farebox_admin,farebox_worker}'),
  ('purge_dead_requests', '{farebox_admin,farebox_worker}'),
  ('metrics_activity', '{farebox_admin,farebox_worker}'),
  ('metrics_tickets', '{farebox_admin,farebox_worker}'),
  ('metrics_retries', '{farebox_admin,farebox_worker}'),
  ('metrics_batches', '{farebox_admin,farebox_worker}'),
  ('metrics_unapplied', '{farebox_admin,farebox_worker}'),
  ('metrics_codes', '{farebox_admin,farebox_worker}'),
  ('metrics_storage', '{farebox_admin,farebox_worker}'),
  ('metrics_server', '{farebox_admin,farebox_worker}'),
  ('upsert_companies', '{farebox_admin}'),
  ('upsert_routes', '{farebox_admin}'),
  ('issue_payment_codes', '{farebox_admin}'),
  ('cancel_payment_codes', '{farebox_admin}'),
  ('list_unapplied_payments', '{farebox_admin}'),
  ('bind_company_login', '{farebox_admin}'),
  ('enqueue_tickets', '{farebox_app}'),
  ('queued_outcomes', '{farebox_app}'),
  ('queue_size', '{farebox_admin,farebox_app}'),
  ('queue_metrics', '{farebox_admin,farebox_worker}'),
  ('process_ticket_queue', '{farebox_worker}'),
  ('begin_queued_request', '{farebox_worker}'),
  ('process_queued_request', '{farebox_worker}'),
  ('drain_ticket_queue', '{farebox_worker}'),
  ('blameless_errors', '{farebox_worker}'),
  ('list_queued_requests', '{farebox_admin}'),
  ('list_dead_requests', '{farebox_admin}'),
  ('retry_queued_requests', '{farebox_admin}'),
  ('drop_queued_requests', '{farebox_admin}'),
  ('pause_company_queue', '{farebox_admin}'),
  ('resume_company_queue', '{farebox_admin}'),
  ('list_paused_companies', '{farebox_admin}');
-- A function that is not listed here is nobody's: add it with the roles it is meant for.
select set_eq(
  $$select p.proname::text as name, array(
      select r.name from unnest(array['farebox_admin', 'farebox_app', 'farebox_company', 'farebox_worker', 'pg_monitor']) as r(name)
      where has_function_privilege(r.name, p.oid, 'execute') order by r.name) as roles
    from pg_proc as p
    where p.pronamespace = 'farebox'::regnamespace and p.proname !~ '^_'$$,
  'select name, roles from allowed',
  'who may execute which function (pg_monitor stands for everybody)');

-- Tables -------------------------------------------------------------------------------------------------------

select is_empty(
  $$select r.name, c.oid::regclass from pg_class as c
    cross join unnest(array['farebox_app', 'farebox_worker', 'pg_monitor']) as r(name)
    where c.relnamespace = 'farebox'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f')
      and (has_table_privilege(r.name, c.oid, 'select, insert, update, delete, truncate, references, trigger')
        or has_any_column_privilege(r.name, c.oid, 'select, insert, update, references'))$$,
  'applications and workers touch no table');
select set_eq(
  $$select c.relname::text as name, string_agg(distinct a.grantee::regrole || ': ' || a.privilege_type, ', ' order by a.grantee::regrole || ': ' || a.privilege_type) as privileges
    from pg_class as c
    cross join lateral aclexplode(c.relacl) as a
    where c.relnamespace = 'farebox'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S') and a.grantee <> c.relowner
    group by c.relname$$,
  $$values
    ('companies', 'farebox_admin: DELETE, farebox_admin: INSERT, farebox_admin: SELECT, farebox_company: SELECT'),
    ('company_logins', 'farebox_admin: DELETE, farebox_admin: INSERT, farebox_admin: SELECT, farebox_admin: UPDATE'),
    ('payment_codes', 'farebox_admin: DELETE, farebox_admin: SELECT, farebox_company: SELECT'),
    ('routes', 'farebox_admin: DELETE, farebox_admin: INSERT, farebox_admin: SELECT, farebox_company: SELECT'),
    ('tickets', 'farebox_company: SELECT'),
    ('transactions', 'farebox_company: SELECT'),
    ('unapplied_payments', 'farebox_admin: SELECT, farebox_company: SELECT')$$,
  'who may do what with which table');
select set_eq(
  $$select c.relname::text as name, a.grantee::regrole || ': ' || a.privilege_type as privilege, string_agg(t.attname, ', ' order by t.attname) as columns
    from pg_class as c
    join pg_attribute as t on t.attrelid = c.oid
    cross join lateral aclexplode(t.attacl) as a
    where c.relnamespace = 'farebox'::regnamespace
    group by 1, 2$$,
  $$values
    ('companies', 'farebox_admin: UPDATE', 'commission_rate, monime_account_id, name, status'),
    ('routes', 'farebox_admin: UPDATE', 'destination, fare, name, origin, status'),
    ('payment_codes', 'farebox_admin: INSERT', 'code, company_id, created_at, expires_at, id, route_id, total_tickets'),
    ('payment_codes', 'farebox_admin: UPDATE', 'expires_at, status, total_tickets')$$,
  'and with which columns: the counter of a code, and what tickets name, is nobody''s to write');

-- PUBLIC -------------------------------------------------------------------------------------------------------

select is_empty(
  $$select o.kind, o.name from (
      select 'schema' as kind, nspname::text as name, coalesce(nspacl, acldefault('n', nspowner)) as acl from pg_namespace where nspname = 'farebox'
      union all select 'relation', relname, coalesce(relacl, acldefault('r', relowner)) from pg_class
        where relnamespace = 'farebox'::regnamespace and relkind in ('r', 'p', 'v', 'm', 'f', 'S')
      union all select 'column', attrelid::regclass || '.' || attname, attacl from pg_attribute
        where attrelid in (select oid from pg_class where relnamespace = 'farebox'::regnamespace) and attacl is not null
      union all select 'function', proname, coalesce(proacl, acldefault('f', proowner)) from pg_proc where pronamespace = 'farebox'::regnamespace
      union all select 'type', typname, coalesce(typacl, acldefault('T', typowner)) from pg_type
        where typnamespace = 'farebox'::regnamespace and typelem = 0 and typrelid not in (select oid from pg_class where relkind <> 'c')) as o
    cross join lateral aclexplode(o.acl) as a
    where a.grantee = 0$$,
  'nothing for PUBLIC');
select is_empty(
  $$select a.grantee::regrole, a.privilege_type from (
      select nspacl as acl from pg_namespace where nspname = 'farebox'
      union all select relacl from pg_class where relnamespace = 'farebox'::regnamespace
      union all select proacl from pg_proc where pronamespace = 'farebox'::regnamespace) as o
    cross join lateral aclexplode(o.acl) as a
    where a.is_grantable and a.grantee <> 'farebox_owner'::regrole$$,
  'nobody may pass on what was granted');
select is_empty(
  $$select r.name from unnest(array['farebox_app', 'farebox_worker', 'farebox_company', 'farebox_admin', 'pg_monitor']) as r(name)
    where has_schema_privilege(r.name, 'farebox', 'create')$$,
  'nobody but the owner may create anything in the schema');
select ok(not has_schema_privilege('pg_monitor', 'farebox', 'usage'), 'who is in no group cannot even look into the schema');

-- What a later migration adds is nobody's either, until it is granted.
set local role farebox_owner;
create function farebox.added_later() returns int language sql as 'select 1';
create type farebox.type_added_later as (n int);
create table farebox.table_added_later (n int);
reset role;
select is_empty(
  $$select r.name from unnest(array['farebox_app', 'farebox_worker', 'farebox_company', 'farebox_admin', 'pg_monitor']) as r(name)
    where has_function_privilege(r.name, 'farebox.added_later()', 'execute') or has_type_privilege(r.name, 'farebox.type_added_later', 'usage')
      or has_table_privilege(r.name, 'farebox.table_added_later', 'select, insert, update, delete')$$,
  'nor anything for PUBLIC in what later migrations add');

select * from finish(true);
rollback;
