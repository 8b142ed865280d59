-- Purpose: the first half of processing one request with care: counts its attempt, so that once the caller has committed, the
--   attempt counts even if the second half (process_queued_request) takes down its session, or the whole server. One request at a time
--   in the whole database, so that nobody is blamed for another.
-- Returns: the queue id, null when nothing is ready or another one's attempt may be under way.
-- Locks and writes: an advisory lock, ticket_queue; the request is in backoff from now on, and free again after that if it was not processed.
set role farebox_owner;

create function farebox.begin_queued_request()
returns bigint
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
  perform pg_advisory_xact_lock('farebox.ticket_queue'::regclass::oid::int, 1);
  if exists (select from farebox.ticket_queue as q where q.ready_at > farebox._now() and q.reason = 'unfinished') then
    return null;
  end if;
  v_claim := farebox._claim_requests(1, true);
  update farebox.ticket_queue as q
  set
    rank = null,
    ready_at = farebox._now() + farebox._backoff(q.attempts + 1),
    attempts = least(q.attempts + 1, 4),
    together = 1,
    reason = 'unfinished'  -- until it has ended
  where q.id = v_claim.ids[1];
  return v_claim.ids[1];
end
$$;

comment on function farebox.begin_queued_request() is
  'Counts the next request''s attempt before it is made by process_queued_request, so that it counts whatever happens then';

reset role;
