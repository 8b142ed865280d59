-- Purpose: the place where a shard (db/router) refuses payments that another shard's company has bought with. Elsewhere nothing is refused.
-- Parameters: p_requests.  Returns: the requests.
-- Without settings of its own, so that it is inlined and costs nothing.
set role farebox_owner;

create function farebox._own_requests(p_requests farebox._ticket_request[])
returns farebox._ticket_request[]
language sql volatile security invoker
as $$ select p_requests $$;

comment on function farebox._own_requests(farebox._ticket_request[]) is 'Internal: where a shard refuses what is another shard''s';

reset role;
