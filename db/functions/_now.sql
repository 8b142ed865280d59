-- Purpose: the one clock of all rules. Tests put another body here to inject the time.
-- Returns: the time of the call, not of the transaction: a decision made after a wait for a lock counts from then.
set role farebox_owner;

create function farebox._now()
returns timestamptz
language sql volatile security invoker parallel safe
as $$ select pg_catalog.clock_timestamp() $$;

comment on function farebox._now() is 'The database''s clock, the one clock of all rules; tests replace it to inject the time';

reset role;
