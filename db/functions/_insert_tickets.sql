-- Purpose: writes the tickets, the first candidate of each payment.
-- Parameters: p_requests; those without a reason are candidates. p_now, their time. p_is_new, none of their payments had a ticket a moment ago.
-- Returns: how many were written; the others of the candidates' payments were lost to callers who have committed.
-- Locks and writes: tickets in the order of the payment, so that callers wait in one direction only.
set role farebox_owner;

create function farebox._insert_tickets(p_requests farebox._ticket_request[], p_now timestamptz, p_is_new boolean)
returns int
language plpgsql volatile security invoker
as $$
declare
  v_created int;
begin
  -- ON CONFLICT looks each payment up again, announces each row, and writes a second time that it stands: a seventh of the
  -- whole call. It is not needed where nobody else is writing one of these payments in this very moment.
  if p_is_new then
    begin
      insert into farebox.tickets (id, company_id, route_id, payment_code_id, amount, created_at, commission_rate,
        monime_transaction_id, passenger_phone, monime_otp)
      select distinct on (r.transaction_id collate "C")  -- the order of the index, and fast under any collation
        r.ticket_id, r.company_id, r.route_id, r.payment_code_id, r.amount, p_now, r.commission_rate,
        r.transaction_id, r.passenger_phone, r.monime_otp
      from unnest(p_requests) as r
      where r.reason is null
      order by r.transaction_id collate "C", r.ordinal;
      get diagnostics v_created = row_count;
      return v_created;
    exception when unique_violation then
      null;  -- somebody was: all is taken back, and the same rows are written with care
    end;
  end if;

  insert into farebox.tickets (id, company_id, route_id, payment_code_id, amount, created_at, commission_rate,
    monime_transaction_id, passenger_phone, monime_otp)
  select distinct on (r.transaction_id collate "C")
    r.ticket_id, r.company_id, r.route_id, r.payment_code_id, r.amount, p_now, r.commission_rate,
    r.transaction_id, r.passenger_phone, r.monime_otp
  from unnest(p_requests) as r
  where r.reason is null
  order by r.transaction_id collate "C", r.ordinal
  on conflict (monime_transaction_id) do nothing;
  get diagnostics v_created = row_count;
  return v_created;
end
$$;

comment on function farebox._insert_tickets(farebox._ticket_request[], timestamptz, boolean) is 'Internal: writes tickets';

reset role;
