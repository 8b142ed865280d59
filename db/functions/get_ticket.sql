-- Purpose: one ticket.
-- Parameters: p_ticket_id; p_company_id, when given, the ticket must be this company's.  Returns: the ticket, or no row.
set role farebox_owner;

create function farebox.get_ticket(p_ticket_id uuid, p_company_id uuid default null)
returns setof farebox.ticket_view
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
-- The same index on an empty database as on a full one.
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
begin
  return query
    select
      t.id, t.company_id, t.route_id, t.passenger_phone, t.monime_transaction_id, t.monime_otp, t.payment_code_id,
      (select k.code from farebox.payment_codes as k where k.id = t.payment_code_id), t.amount, t.commission_rate, t.status, t.created_at
    from farebox.tickets as t
    where t.id = p_ticket_id and (p_company_id is null or t.company_id = p_company_id);
end
$$;

comment on function farebox.get_ticket(uuid, uuid) is
  'One ticket by its id, within a company when one is given';

reset role;
