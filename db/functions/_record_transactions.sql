-- Purpose: writes the transaction records of tickets. A record that cannot be written costs neither its ticket nor the other records.
-- Parameters: p_tickets, of which those without a reason are tickets without a record; p_now.
-- Returns: how many this call wrote; the tickets whose record could not be written.
-- Raises: only what the caller should retry as a whole (class 40).  Locks and writes: transactions.
set role farebox_owner;

create function farebox._record_transactions(
  p_tickets farebox._ticket_request[], p_now timestamptz, out written int, out missing uuid[])
language plpgsql volatile security invoker
as $$
declare
  v_ticket farebox._ticket_request;
  v_count int;
begin
  missing := '{}';
  begin
    insert into farebox.transactions (ticket_id, company_id, amount, commission, net_amount, created_at)
    select t.ticket_id, t.company_id, t.amount, c.commission, t.amount - c.commission, p_now
    from unnest(p_tickets) as t
    cross join lateral (select farebox._commission(t.amount, t.commission_rate) as commission) as c
    where t.reason is null;
    get diagnostics written = row_count;
    if written < cardinality(p_tickets) then  -- a trigger or a rule may leave rows out without a word
      missing := array(select t.ticket_id from unnest(p_tickets) as t where t.reason is null
        and not exists (select from farebox.transactions as x where x.ticket_id = t.ticket_id));
    end if;
    return;
  exception
    when transaction_rollback then
      raise;
    when lock_not_available then  -- the caller will not wait for the table: not a hundred times either
      written := 0;
      missing := array(select t.ticket_id from unnest(p_tickets) as t where t.reason is null);
      return;
    when others or assert_failure then
      written := 0;
  end;

  -- A loop, because each record needs an exception handler of its own. In the order of the keys: two repairs may meet.
  for v_ticket in select t.* from unnest(p_tickets) as t where t.reason is null order by t.ticket_id loop
    begin
      insert into farebox.transactions (ticket_id, company_id, amount, commission, net_amount, created_at)
      select v_ticket.ticket_id, v_ticket.company_id, v_ticket.amount, c.commission, v_ticket.amount - c.commission, p_now
      from (select farebox._commission(v_ticket.amount, v_ticket.commission_rate) as commission) as c
      on conflict (ticket_id) do nothing;
      get diagnostics v_count = row_count;
      written := written + v_count;
      if v_count = 0 and not exists (select from farebox.transactions as x where x.ticket_id = v_ticket.ticket_id) then
        missing := missing || v_ticket.ticket_id;
      end if;
    exception
      when transaction_rollback then
        raise;
      when others or assert_failure then
        missing := missing || v_ticket.ticket_id;
        raise warning using
          message = format('the transaction record of ticket %s cannot be written: %s', v_ticket.ticket_id, sqlerrm),
          hint = 'the ticket stands; farebox.record_missing_transactions() writes the record once the cause is gone';
    end;
  end loop;
end
$$;

comment on function farebox._record_transactions(farebox._ticket_request[], timestamptz) is
  'Internal: writes the transaction records of tickets, each on its own when not all together';

reset role;
