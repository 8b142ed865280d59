-- Purpose: writes the tickets and charges their codes, in one statement.
-- Parameters: p_requests; those without a reason are candidates, the first of each payment is written. p_now, their time.
-- Returns: how many were written; the others of the candidates' payments were lost to callers who have committed.
-- Locks and writes: tickets in the order of the payment, so that callers wait in one direction only; payment_codes, locked before.
set role farebox_owner;

create function farebox._insert_tickets(
  p_requests farebox._ticket_request[], p_now timestamptz, out created int)
language plpgsql volatile security invoker
as $$
begin
  with created as (
    insert into farebox.tickets (id, company_id, route_id, payment_code_id, amount, created_at, commission_rate,
      monime_transaction_id, passenger_phone, monime_otp)
    select distinct on (r.transaction_id)
      r.ticket_id, r.company_id, r.route_id, r.payment_code_id, r.amount, p_now, r.commission_rate,
      r.transaction_id, r.passenger_phone, r.monime_otp
    from unnest(p_requests) as r
    where r.reason is null
    order by r.transaction_id, r.ordinal
    on conflict (monime_transaction_id) do nothing
    returning payment_code_id
  ),
  charge as (
    select c.payment_code_id, count(*)::int as uses
    from created as c
    where c.payment_code_id is not null
    group by c.payment_code_id
  ),
  charged as (
    update farebox.payment_codes as k
    set
      used_tickets = k.used_tickets + c.uses,
      status = case when k.used_tickets + c.uses >= k.total_tickets then 'expired' else k.status end
    from charge as c
    where k.id = c.payment_code_id
  )
  select count(*) into created from created;
end
$$;

comment on function farebox._insert_tickets(farebox._ticket_request[], timestamptz) is
  'Internal: writes tickets and charges their codes';

reset role;
