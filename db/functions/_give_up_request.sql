-- Purpose: ends a request that has used up its attempts: as an unapplied payment; where it has no place there (its payment has no
--   well-formed id, or has a ticket), as a dead request.
-- Parameters: p_request, locked; p_reason; p_now.  Returns: nothing.
-- Locks and writes: ticket_queue, unapplied_payments or ticket_queue_dead (one row).
set role farebox_owner;

create function farebox._give_up_request(p_request farebox.ticket_queue, p_reason text, p_now timestamptz)
returns void
language plpgsql volatile security invoker
as $$
declare
  v_payment record := farebox._queued_payment(p_request.request);
  v_request farebox._ticket_request;
  v_outcome farebox.ticket_outcome;
begin
  if v_payment.transaction_id is null
    or exists (select from farebox.tickets as t where t.monime_transaction_id = v_payment.transaction_id)
  then
    perform farebox._keep_dead_requests(array[p_request.id], array[p_reason], array[null::text], p_now);
  else
    v_request.ordinal := 1;
    v_request.transaction_id := v_payment.transaction_id;
    v_request.company_id := v_payment.company_id;
    v_outcome.ordinal := 1;
    v_outcome.outcome := 'rejected';
    v_outcome.reason := p_reason;
    begin
      perform farebox._keep_unapplied_payments(json_build_array(p_request.request), array[v_request], array[v_outcome], p_now);
    exception when statement_too_complex then  -- as in create_tickets
      perform farebox._keep_unapplied_payments(
        farebox._shallow_json(json_build_array(p_request.request)), array[v_request], array[v_outcome], p_now);
    end;
  end if;
  delete from farebox.ticket_queue as q where q.id = p_request.id;
end
$$;

comment on function farebox._give_up_request(farebox.ticket_queue, text, timestamptz) is
  'Internal: ends a queued request that has used up its attempts';

reset role;
