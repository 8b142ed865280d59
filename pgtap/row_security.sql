-- Row-level security: a company reads its own rows and no others, a login bound to a company cannot choose another.
begin;
select plan(71);

select is_empty(
  $$select oid::regclass from pg_class where relnamespace = 'farebox'::regnamespace and relkind in ('r', 'p') and not relrowsecurity$$,
  'every table has row-level security');
select is_empty(
  $$select p.polrelid::regclass, p.polname from pg_policy as p
    join pg_class as c on c.oid = p.polrelid and c.relnamespace = 'farebox'::regnamespace
    where 'farebox_company'::regrole = any (p.polroles) and (p.polcmd <> 'r' or pg_get_expr(p.polqual, p.polrelid) not like '%_login_company()%')
      or 0 = any (p.polroles) or cardinality(p.polroles) <> 1$$,
  'each policy is for one group; those of companies are for reading what is theirs');

select is_empty(
  $$select polrelid::regclass, polname from pg_policy
    where polrelid in ('farebox.ticket_queue'::regclass, 'farebox.ticket_queue_dead'::regclass, 'farebox.ticket_queue_pauses'::regclass,
      'farebox.tally'::regclass)$$,
  'the queue has no policy: nobody reads its rows, whatever is granted');

-- Companies 1 and 2, each with a route, a code, a ticket, a record and an unapplied payment; a third payment is nobody's.
insert into farebox.companies (id, name)
select format('c0000000-0000-7000-8000-00000000000%s', n)::uuid, 'Company ' || n from generate_series(1, 2) as n;
insert into farebox.routes (id, company_id, name, fare)
select format('d0000000-0000-7000-8000-00000000000%s', n)::uuid, format('c0000000-0000-7000-8000-00000000000%s', n)::uuid, 'Route ' || n, 5000
from generate_series(1, 2) as n;
insert into farebox.payment_codes (company_id, code, total_tickets)
select format('c0000000-0000-7000-8000-00000000000%s', n)::uuid, 'CODE-' || n, 10 from generate_series(1, 2) as n;
create temp table sold as
select t.* from farebox.create_tickets((
  select json_agg(json_build_object('company_id', format('c0000000-0000-7000-8000-00000000000%s', n), 'monime_otp', o.otp, 'amount', 5000,
    'route_id', format('d0000000-0000-7000-8000-00000000000%s', n), 'passenger_phone', '+23276123456', 'monime_transaction_id', o.id || n,
    'payment_code', 'CODE-' || n))
  from generate_series(1, 2) as n cross join (values ('482913', 'pay-'), ('x', 'bad-')) as o(otp, id))) as t;
select farebox.create_tickets('[{"monime_transaction_id": "nobody''s"}]');

-- What the role sees of each table, as "table: whose rows". Whose is the digit that ends the company's id.
create function pg_temp.seen_as(p_role text) returns text
language plpgsql as $$
declare
  v_relation text;
  v_whose text;
  v_seen text := '';
begin
  execute format('set local role %I', p_role);
  foreach v_relation in array array['companies', 'routes', 'payment_codes', 'tickets', 'transactions', 'unapplied_payments', 'company_logins'] loop
    begin
      execute format('select coalesce(string_agg(coalesce(right(%1$I::text, 1), ''?''), '''' order by %1$I), ''none'') from farebox.%2$I',
        case v_relation when 'companies' then 'id' else 'company_id' end, v_relation) into v_whose;
    exception when insufficient_privilege then
      v_whose := 'denied';
    end;
    v_seen := v_seen || case v_seen when '' then '' else ', ' end || v_relation || ': ' || v_whose;
  end loop;
  reset role;
  return v_seen;
end
$$;

-- An unbound login: the setting names the company --------------------------------------------------------------

select is(pg_temp.seen_as('farebox_company'),
  'companies: none, routes: none, payment_codes: none, tickets: none, transactions: none, unapplied_payments: none, company_logins: denied',
  'no company set: no rows');
set local farebox.company_id = 'c0000000-0000-7000-8000-000000000001';
select is(pg_temp.seen_as('farebox_company'),
  'companies: 1, routes: 1, payment_codes: 1, tickets: 1, transactions: 1, unapplied_payments: 1, company_logins: denied',
  'company 1 set: its rows');
set local farebox.company_id = 'c0000000-0000-7000-8000-000000000002';
select is(pg_temp.seen_as('farebox_company'),
  'companies: 2, routes: 2, payment_codes: 2, tickets: 2, transactions: 2, unapplied_payments: 2, company_logins: denied',
  'company 2 set: its rows');
create function pg_temp.seen_with(p_setting text) returns text
language plpgsql as $$
begin
  perform set_config('farebox.company_id', p_setting, true);
  return pg_temp.seen_as('farebox_company');
end
$$;
select is(pg_temp.seen_with(s.setting),
  'companies: none, routes: none, payment_codes: none, tickets: none, transactions: none, unapplied_payments: none, company_logins: denied',
  format('%L set: no rows', s.setting))
from (values (''), ('1'), ('c0000000-0000-7000-8000-000000000009'), ('%'), ('c0000000-0000-7000-8000-000000000001'' or true --')) as s(setting);

-- A bound login: no setting changes its company ----------------------------------------------------------------

select farebox.bind_company_login(session_user, 'c0000000-0000-7000-8000-000000000001');
select is(pg_temp.seen_with(s.setting),
  'companies: 1, routes: 1, payment_codes: 1, tickets: 1, transactions: 1, unapplied_payments: 1, company_logins: denied',
  format('bound to company 1, %L set: the rows of company 1', s.setting))
from (values (''), ('c0000000-0000-7000-8000-000000000002'), ('nonsense')) as s(setting);
-- The login's own binding wins over that of a role it takes.
select farebox.bind_company_login('farebox_company', 'c0000000-0000-7000-8000-000000000002');
select is(pg_temp.seen_with('c0000000-0000-7000-8000-000000000002'),
  'companies: 1, routes: 1, payment_codes: 1, tickets: 1, transactions: 1, unapplied_payments: 1, company_logins: denied',
  'bound to company 1, in a role bound to company 2: the rows of company 1');
select farebox.bind_company_login(session_user, null);
select is(pg_temp.seen_with('c0000000-0000-7000-8000-000000000001'),
  'companies: 2, routes: 2, payment_codes: 2, tickets: 2, transactions: 2, unapplied_payments: 2, company_logins: denied',
  'unbound, in a role bound to company 2: the rows of company 2, whatever is set');
select throws_ok(format('set local role farebox_company; %s', s.attempt), '42501', null, 'a company may not: ' || s.attempt)
from (values
  ($$select farebox.bind_company_login(session_user, 'c0000000-0000-7000-8000-000000000001')$$),
  ('select * from farebox.company_logins'),
  ($$insert into farebox.company_logins values (session_user, 'c0000000-0000-7000-8000-000000000001')$$),
  ('update farebox.company_logins set company_id = company_id'),
  ('delete from farebox.company_logins'),
  ($$insert into farebox.companies (name) values ('Mine')$$),
  ($$update farebox.companies set commission_rate = 0$$),
  ('delete from farebox.routes'),
  ('update farebox.payment_codes set total_tickets = 100'),
  ($$update farebox.tickets set status = 'used'$$),
  ('delete from farebox.transactions'),
  ('update farebox.unapplied_payments set request = ''{}'''),
  ('truncate farebox.tickets'),
  ($$select farebox.create_tickets('[]')$$)
) as s(attempt);

-- Administrators and the others --------------------------------------------------------------------------------

select is(pg_temp.seen_as('farebox_admin'),
  'companies: 12, routes: 12, payment_codes: 12, tickets: denied, transactions: denied, unapplied_payments: 12?, company_logins: 2',
  'administrators see the catalog, the unapplied payments and the logins of all');
select is(pg_temp.seen_as(r.role),
  'companies: denied, routes: denied, payment_codes: denied, tickets: denied, transactions: denied, unapplied_payments: denied, company_logins: denied',
  r.role || ' sees no table')
from unnest(array['farebox_app', 'farebox_worker', 'pg_monitor']) as r(role);
select lives_ok(format('set local role farebox_admin; %s; reset role', s.change), 'an administrator may: ' || s.change)
from (values
  ($$insert into farebox.companies (name) values ('New')$$),
  ($$update farebox.companies set status = 'suspended'$$),
  ($$insert into farebox.routes (company_id, name, fare) values ('c0000000-0000-7000-8000-000000000001', 'New', 1)$$),
  ($$update farebox.routes set fare = 2 where name = 'New'$$),
  ($$delete from farebox.routes where name = 'New'$$),
  ($$insert into farebox.payment_codes (company_id, code, total_tickets) values ('c0000000-0000-7000-8000-000000000001', 'NEW', 1)$$),
  ($$update farebox.payment_codes set total_tickets = 20, status = 'cancelled', expires_at = '2030-01-01 00:00:00+00' where code = 'CODE-1'$$),
  ($$delete from farebox.payment_codes where code = 'NEW'$$),
  ($$insert into farebox.company_logins values ('a login', 'c0000000-0000-7000-8000-000000000001')$$),
  ('delete from farebox.company_logins')
) as s(change);
select throws_ok(format('set local role farebox_admin; %s', s.attempt), '42501', null, 'an administrator may not: ' || s.attempt)
from (values
  ('update farebox.payment_codes set used_tickets = 0'),
  ('update farebox.routes set id = id'),
  ('update farebox.routes set company_id = company_id'),
  ('update farebox.companies set id = id'),
  ($$insert into farebox.payment_codes (company_id, code, total_tickets, used_tickets) values ('c0000000-0000-7000-8000-000000000001', 'NEW', 1, 1)$$),
  ('delete from farebox.tickets'),
  ($$update farebox.tickets set status = 'used'$$),
  ('insert into farebox.transactions default values'),
  ('delete from farebox.unapplied_payments'),
  ('truncate farebox.routes')
) as s(attempt);

-- The queue ----------------------------------------------------------------------------------------------------

select farebox.enqueue_tickets('[{"company_id": "c0000000-0000-7000-8000-000000000001"}]');
select throws_ok(format('set local role %I; select * from farebox.%I', r.role, t.relation), '42501', null, format('%s does not see %s', r.role, t.relation))
from unnest(array['farebox_app', 'farebox_worker', 'farebox_company', 'farebox_admin', 'pg_monitor']) as r(role)
cross join unnest(array['ticket_queue', 'ticket_queue_dead', 'ticket_queue_pauses']) as t(relation);
-- A grant by mistake shows nothing yet.
grant select on farebox.ticket_queue to farebox_company;
select lives_ok($$set local role farebox_company; create temp table seen as select * from farebox.ticket_queue; reset role$$, 'who was granted the table');
select is_empty('select * from seen', 'still sees no row');

select * from finish(true);
rollback;
