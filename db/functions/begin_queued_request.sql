-- Purpose: the first half of processing one request with care: counts its attempt, so that once the caller has committed, it counts
--   even if the second half (process_queued_request) takes down the session or the server. One at a time in the whole database.
-- Parameters: p_unfinished_only, only requests whose last attempt began and never ended: process_ticket_queue leaves those out.
-- Returns: the queue id, null when there is none or another one's attempt may be under way.
-- Locks and writes: an advisory lock, ticket_queue; from now on the request is in backoff, after which it is free again.
set role farebox_owner;

create function farebox.begin_queued_request(p_unfinished_only boolean default false)
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
  if p_unfinished_only and not exists (
    select from farebox.ticket_queue as q
    where (q.ready_at <= farebox._now() or q.ready_at > farebox._now() + interval '1 hour') and q.reason = 'unfinished')
  then
    return null;
  end if;
  perform pg_advisory_xact_lock('farebox.ticket_queue'::regclass::oid::int, 1);
  -- What would rest for longer than a minute is not under way: the clock was set back, and nobody else must wait for that.
  if exists (
    select from farebox.ticket_queue as q
    where q.ready_at > farebox._now() and q.ready_at < farebox._now() + interval '1 minute' and q.reason = 'unfinished')
  then
    return null;
  end if;
  -- By turns, as in process_ticket_queue: those that are put back and blamed for nothing come again for ever.
  v_claim := farebox._claim_requests(1, case when p_unfinished_only then 1 else (random() < 0.5)::int end, true);
  if exists (select from farebox.ticket_queue as q where q.id = v_claim.ids[1] and q.reason = 'unfinished') then
    perform farebox._count_retries(1, 0);
  end if;
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

comment on function farebox.begin_queued_request(boolean) is
  'Counts the next request''s attempt before it is made by process_queued_request, so that it counts whatever happens then';

reset role;
