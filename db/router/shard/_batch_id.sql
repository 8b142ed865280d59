-- Purpose: as db/functions/_batch_id.sql: here the router names it, by a setting that lasts for the transaction.
set role farebox_owner;

create or replace function farebox._batch_id()
returns uuid
language sql volatile security invoker
as $$ select coalesce(nullif(current_setting('farebox.batch_id', true), '')::uuid, farebox._uuid_v7()) $$;

reset role;
