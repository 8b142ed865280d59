-- Purpose: create_tickets for a single payment.
-- Parameters: p_ticket, one request.  Returns: its one outcome.  Raises, locks and writes: as create_tickets.
set role farebox_owner;

create function farebox.create_ticket(p_ticket json)
returns setof farebox.ticket_outcome
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
begin
  if p_ticket is null then
    raise exception using errcode = 'TK001',
      message = 'the ticket is null',
      hint = 'pass an object: {"company_id": …}';
  end if;
  return query select * from farebox.create_tickets(json_build_array(p_ticket));
end
$$;

comment on function farebox.create_ticket(json) is 'A payment becomes a ticket, exactly once; its one outcome';

reset role;
