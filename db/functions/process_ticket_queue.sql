-- Purpose: claims queued requests, makes their tickets and settles them, all in the caller's transaction: whatever stops it puts
--   everything back. Any number of callers at once. Requests are done when they have an outcome, whichever it is.
-- Parameters: p_limit, 1 to 10,000.  Returns: one row of counts; taken = 0 when nothing is ready but for begin_queued_request.
-- Raises: TK003; what is not the requests' fault (such as 40001, 53100).  Locks and writes: ticket_queue (skipping what is locked),
--   then as create_tickets, then ticket_queue_dead.
set role farebox_owner;

create function farebox.process_ticket_queue(p_limit int default 100)
returns table (taken int, created int, duplicates int, conflicts int, rejected int, retried int, dead int)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
declare
  v_claim record;
begin
  perform farebox._check_limit(p_limit, 10000);
  -- Those in backoff are half of a batch, and half of the batches of one: neither they nor the line have to wait for the other.
  v_claim := farebox._claim_requests(p_limit, (p_limit + (random() < 0.5)::int) / 2, false);
  if v_claim.ids is null then
    return query select 0, 0, 0, 0, 0, 0, 0;
    return;
  end if;
  return query select p.* from farebox._process_requests(v_claim.ids, v_claim.places, v_claim.batch, false) as p;
end
$$;

comment on function farebox.process_ticket_queue(int) is
  'Makes tickets of queued requests and settles them, in one transaction; one row of counts';

reset role;
