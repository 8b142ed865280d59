-- 0001.create-schema. Made from db/ by tests/tools/freeze_migrations.py; see README.md here.

-- [copy of db/roles.sql]
-- Group roles and the owner of everything. Roles belong to the whole cluster, so they are made only where
-- they are missing: another database of the same cluster may have them already, or be making them right now.
do $$
declare
  v_role text;
  v_may_set_role boolean;
begin
  if current_setting('server_encoding') <> 'UTF8' then
    raise exception using errcode = 'TK900',
      message = format('the database encoding is %s, Farebox needs UTF8', current_setting('server_encoding')),
      hint = 'create the database with: create database farebox encoding ''UTF8'' template template0';
  end if;

  foreach v_role in array array['farebox_owner', 'farebox_app', 'farebox_worker', 'farebox_company', 'farebox_admin'] loop
    if not exists (select from pg_catalog.pg_roles as r where r.rolname = v_role) then
      begin
        execute format('create role %I nologin', v_role);
      exception when duplicate_object or unique_violation then
        null;  -- the other database won the race; the role is there
      end;
    end if;
  end loop;

  -- Whoever migrates must be able to act as the owner. Since PostgreSQL 16 the creator of a role may grant it
  -- but is no full member yet, so the membership is asked for and, if it is missing, granted.
  v_may_set_role := pg_has_role(current_user, 'farebox_owner',
    case when current_setting('server_version_num')::int >= 160000 then 'SET' else 'MEMBER' end);
  if not v_may_set_role then
    execute format('grant farebox_owner to %I', current_user);
  end if;
end
$$;

-- [copy of db/schema.sql]
create schema farebox authorization farebox_owner;

set role farebox_owner;

comment on schema farebox is 'Farebox: mobile-money payments become bus tickets, exactly once each';

-- Nothing for PUBLIC, also not what later migrations add. PostgreSQL's own defaults are global, so the
-- revocation has to be global for the owner too: one that names the schema would take nothing away.
alter default privileges for role farebox_owner revoke execute on functions from public;
alter default privileges for role farebox_owner revoke usage on types from public;

reset role;

-- [copy of db/functions/_now.sql]
-- Purpose: the one clock of all rules. Tests put another body here to inject the time.
-- Returns: the time of the call, not of the transaction: a decision made after a wait for a lock counts from then.
set role farebox_owner;

create function farebox._now()
returns timestamptz
language sql volatile security invoker parallel safe
as $$ select pg_catalog.clock_timestamp() $$;

comment on function farebox._now() is 'The database''s clock, the one clock of all rules; tests replace it to inject the time';

reset role;

-- [copy of db/functions/_uuid_v7.sql]
-- Purpose: time-ordered ids. Native where the server has uuidv7() (PostgreSQL 18), else the same layout made here.
-- Returns: a version 7 UUID: 48 bits of milliseconds, the rest (made here: 70 bits of it) random.
set role farebox_owner;

do $do$
begin
  if to_regprocedure('pg_catalog.uuidv7()') is not null then
    execute $sql$
      create function farebox._uuid_v7() returns uuid
      language sql volatile security invoker parallel safe
      as $$ select pg_catalog.uuidv7() $$
    $sql$;
  else
    -- A version 4 UUID has its variant bits in the right place; its first seven bytes give way to the time and the version.
    -- No subquery, or the function would not be inlined and cost three times as much.
    execute $sql$
      create function farebox._uuid_v7() returns uuid
      language sql volatile security invoker parallel safe
      as $$
        select encode(overlay(uuid_send(gen_random_uuid()) placing substring(int8send(
            (date_part('epoch', clock_timestamp()) * 1000)::bigint << 8 | 112) from 2) from 1), 'hex')::uuid
      $$
    $sql$;
  end if;
end
$do$;

comment on function farebox._uuid_v7() is 'A time-ordered UUID (version 7)';

reset role;

-- [copy of db/types.sql]
set role farebox_owner;

create type farebox.ticket_outcome as (
  ordinal int,
  monime_transaction_id text,
  outcome text,
  reason text,
  ticket_id uuid,
  existing_ticket_id uuid,
  differing text[],
  transaction_recorded boolean
);
comment on type farebox.ticket_outcome is
  'What became of one element of a batch: created, duplicate, conflict or rejected';

create type farebox.catalog_outcome as (
  ordinal int,
  id uuid,
  outcome text,
  reason text
);
comment on type farebox.catalog_outcome is
  'What became of one company, route or payment code of a batch';

create type farebox.ticket_view as (
  id uuid,
  company_id uuid,
  route_id uuid,
  passenger_phone text,
  monime_transaction_id text,
  monime_otp text,
  payment_code_id uuid,
  payment_code text,
  amount bigint,
  commission_rate numeric(5,4),
  status text,
  created_at timestamptz
);
comment on type farebox.ticket_view is 'A ticket as the read functions return it, its code in clear';

create type farebox.violation as (
  invariant text,
  subject text,
  detail text
);
comment on type farebox.violation is 'One broken invariant: its name, the row it was found on, what is wrong there';

-- Internal: one element of a batch on its way through create_tickets. `reason` is null while nothing speaks
-- against a ticket; `ticket_id` is drawn beforehand, so that what was inserted is known without reading it back.
create type farebox._ticket_request as (
  ordinal int,
  given_id text,
  transaction_id text,
  company_id uuid,
  route_id uuid,
  passenger_phone text,
  monime_otp text,
  payment_code text,
  payment_code_id uuid,
  amount bigint,
  commission_rate numeric,
  reason text,
  ticket_id uuid
);
comment on type farebox._ticket_request is 'Internal: one element of a batch on its way through create_tickets';

reset role;
