-- Purpose: counts the tickets just written on their codes; the use that reaches total_tickets sets `expired` in the same update.
-- Parameters: p_requests, their codes locked; p_all_created, every candidate became a ticket.  Returns: nothing.  Writes: payment_codes, one update a code.
set role farebox_owner;

create function farebox._charge_codes(p_requests farebox._ticket_request[], p_all_created boolean)
returns void
language plpgsql volatile security invoker
as $$
begin
  with charge as materialized (
    select r.payment_code_id, count(*)::int as uses
    from unnest(p_requests) as r
    where r.reason is null and r.payment_code_id is not null
      -- Where not every candidate became a ticket: repetitions, and what was lost to another caller.
      and (p_all_created or (select t.id from farebox.tickets as t where t.id = r.ticket_id) is not null)
    group by r.payment_code_id
  )
  update farebox.payment_codes as k
  set
    used_tickets = k.used_tickets + c.uses,
    status = case when k.used_tickets + c.uses >= k.total_tickets then 'expired' else k.status end
  from charge as c
  -- The second condition says the same again, in a form that can only go by the index.
  where k.id = c.payment_code_id and k.id = any (array(select c.payment_code_id from charge as c));
end
$$;

comment on function farebox._charge_codes(farebox._ticket_request[], boolean) is
  'Internal: counts the tickets just written on their payment codes';

reset role;
