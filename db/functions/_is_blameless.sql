-- Purpose: whether an error is no request's fault, so that it is raised instead of blamed on one.
-- Parameters: p_sqlstate.  Returns: whether it begins as blameless_errors() says.
set role farebox_owner;

create function farebox._is_blameless(p_sqlstate text)
returns boolean
language sql immutable security invoker
as $$ select exists (select from farebox.blameless_errors() as b(beginning) where starts_with(p_sqlstate, b.beginning)) $$;

comment on function farebox._is_blameless(text) is 'Internal: whether an error is no queued request''s fault';

reset role;
