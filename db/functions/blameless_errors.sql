-- Purpose: which errors are no request's fault, whatever was in the batch: the one place where this is said, for whoever processes.
-- Returns: how their SQLSTATEs begin. Others that process_ticket_queue raises may be a request's, such as memory (53200) or time (57014).
set role farebox_owner;

create function farebox.blameless_errors()
returns setof text
language sql immutable security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$ values ('25'), ('40'), ('42'), ('53100'), ('53300'), ('55') $$;

comment on function farebox.blameless_errors() is 'How the SQLSTATEs begin of errors that are no queued request''s fault';

reset role;
