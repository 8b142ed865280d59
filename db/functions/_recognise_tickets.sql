-- Purpose: marks as `known` the candidates that have a ticket by now, after another caller was faster.
-- Parameters: p_requests.  Returns: the requests.  Raises: 40001 when none has one: the faster caller's ticket has gone again.
set role farebox_owner;

create function farebox._recognise_tickets(p_requests farebox._ticket_request[])
returns farebox._ticket_request[]
language plpgsql volatile security invoker
as $$
declare
  v_requests farebox._ticket_request[] := p_requests;
  v_ordinal int;
begin
  -- A loop over the few that were lost.
  for v_ordinal in
    select r.ordinal
    from unnest(p_requests) as r
    cross join lateral (select from farebox.tickets as t where t.monime_transaction_id = r.transaction_id offset 0) as t
    where r.reason is null
  loop
    v_requests[v_ordinal].reason := 'known';
  end loop;
  if not found then
    raise exception using errcode = 'serialization_failure',
      message = 'a ticket disappeared while its payment was being looked up',
      hint = 'retry the call';
  end if;
  return v_requests;
end
$$;

comment on function farebox._recognise_tickets(farebox._ticket_request[]) is
  'Internal: marks the candidates that have a ticket by now';

reset role;
