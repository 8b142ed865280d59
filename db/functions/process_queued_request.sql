-- Purpose: the second half of processing one request with care, after begin_queued_request has committed.
-- Parameters: p_queue_id.  Returns: the counts of process_ticket_queue; taken = 0 when somebody else has the request or had it.
-- Raises, locks and writes: as process_ticket_queue; but it waits for whoever passes by the request right now, or its attempt would
--   have been counted and not made.
set role farebox_owner;

create function farebox.process_queued_request(p_queue_id bigint)
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
  v_request farebox.ticket_queue;
begin
  select q.* into v_request from farebox.ticket_queue as q where q.id = p_queue_id and q.attempts > 0 for update;
  if v_request.id is null then
    return query select 0, 0, 0, 0, 0, 0, 0;
    return;
  end if;
  return query select p.* from farebox._process_requests(array[v_request.id], null, json_build_array(v_request.request), true) as p;
end
$$;

comment on function farebox.process_queued_request(bigint) is
  'Processes the request whose attempt begin_queued_request has counted; one row of counts';

reset role;
