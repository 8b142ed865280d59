-- Purpose: judges the codes again once they are locked: between reading and locking they may have been spent, cancelled or have expired.
-- Parameters: p_requests, their codes locked; p_now, the time after the locks were got.  Returns: the requests with the reasons of now.
set role farebox_owner;

create function farebox._refuse_codes(p_requests farebox._ticket_request[], p_now timestamptz)
returns farebox._ticket_request[]
language plpgsql volatile security invoker
as $$
declare
  v_requests farebox._ticket_request[] := p_requests;
  v_refused record;
begin
  -- A loop over the few that changed in that moment.
  for v_refused in
    select s.ordinal, s.reason
    from (
      select r.ordinal, farebox._code_refusal(k.status, k.used_tickets, k.total_tickets, k.expires_at, p_now) as reason
      from unnest(p_requests) as r
      cross join lateral (select k.* from farebox.payment_codes as k where k.id = r.payment_code_id offset 0) as k
      where r.reason is null
    ) as s
    where s.reason is not null
  loop
    v_requests[v_refused.ordinal].reason := v_refused.reason;
  end loop;
  return v_requests;
end
$$;

comment on function farebox._refuse_codes(farebox._ticket_request[], timestamptz) is
  'Internal: requests whose code cannot be charged any more, now that it is locked, get their reason';

reset role;
