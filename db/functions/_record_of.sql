-- Purpose: what _record_transactions needs to know of a ticket that is in the table already.
-- Parameters: a ticket.  Returns: a request without a reason.
set role farebox_owner;

create function farebox._record_of(p_ticket farebox.tickets)
returns farebox._ticket_request
language sql immutable security invoker parallel safe
as $$
  select row(null, null, null, p_ticket.company_id, null, null, null, null, null, p_ticket.amount, p_ticket.commission_rate,
    null, p_ticket.id)::farebox._ticket_request
$$;

comment on function farebox._record_of(farebox.tickets) is 'Internal: a stored ticket in the form that _record_transactions takes';

reset role;
