-- Purpose: how many requests are stored and not settled yet, whether in line, in backoff or paused.
-- Returns: the number.
set role farebox_owner;

create function farebox.queue_size()
returns bigint
language sql stable security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$ select count(*) from farebox.ticket_queue $$;

comment on function farebox.queue_size() is 'How many queued requests are not settled yet';

reset role;
