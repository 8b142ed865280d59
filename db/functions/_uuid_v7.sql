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
