-- Purpose: judges the codes again once they are locked: between reading and locking they may have been spent, cancelled or have expired.
-- Parameters: p_requests; p_codes, theirs, locked; p_now, the time after the locks were got.  Returns: the requests with the reasons of now.
set role farebox_owner;

create function farebox._refuse_codes(p_requests farebox._ticket_request[], p_codes uuid[], p_now timestamptz)
returns farebox._ticket_request[]
language plpgsql volatile security invoker
as $$
declare
  v_requests farebox._ticket_request[] := p_requests;
  v_code record;
  v_ordinal int;
begin
  -- A loop over the few that changed in that moment.
  for v_code in
    select k.id, k.reason
    from (
      select k.id, farebox._code_refusal(k.status, k.used_tickets, k.total_tickets, k.expires_at, p_now) as reason
      from farebox.payment_codes as k where k.id = any (p_codes) offset 0) as k
    where k.reason is not null
  loop
    for v_ordinal in
      select r.ordinal from unnest(p_requests) as r where r.reason is null and r.payment_code_id = v_code.id
    loop
      v_requests[v_ordinal].reason := v_code.reason;
    end loop;
  end loop;
  return v_requests;
end
$$;

comment on function farebox._refuse_codes(farebox._ticket_request[], uuid[], timestamptz) is
  'Internal: requests whose code cannot be charged any more, now that it is locked, get their reason';

reset role;
