-- Purpose: the ticket of a payment, on whichever shard, by the registry.
-- Parameters: p_payment, the transaction id.  Returns: its id, null when there is none.
set role farebox_owner;

create or replace function farebox._ticket_of(p_payment text)
returns uuid
language plpgsql stable security invoker
as $$
declare
  v_company_id uuid := (select c.id from farebox._at_claimed_by(farebox._partition_of(p_payment), p_payment) as c(id));
begin
  if v_company_id is null then
    return null;
  end if;
  return (select t.id from farebox._at_ticket_of(farebox._partition_of(v_company_id::text), p_payment) as t(id));
end
$$;
comment on function farebox._ticket_of(text) is 'Internal: the ticket of a payment, by the registry';

reset role;
