-- Purpose: takes the requests that are next: those whose backoff is over, for up to half of them, then the first in line.
-- Parameters: p_limit.  Returns: the requests, null when there is nothing to do. Those that must be tried in small company
--   (`together`) never come with others.  Locks and writes: ticket_queue_pauses (shared), ticket_queue, never waiting (SKIP LOCKED:
--   workers pass each other by); requests of paused companies leave the line.
set role farebox_owner;

create function farebox._claim_requests(p_limit int)
returns farebox.ticket_queue[]
language plpgsql volatile security invoker
as $$
declare
  -- Locked, so that resuming a company waits for those who have seen it paused; one that is being resumed is not paused.
  v_paused uuid[] := array(select p.company_id from farebox.ticket_queue_pauses as p for share skip locked);
  v_floor bigint := (select f.last_value from farebox.ticket_queue_floor as f);
  v_sweep bigint := (select s.last_value from farebox.ticket_queue_sweep as s);
  v_now timestamptz := farebox._now();
  v_clock bigint := (date_part('epoch', clock_timestamp()) * 1000)::bigint;  -- the real one: this is housekeeping, no rule
  v_may_sweep boolean := true;
  v_lowest bigint;
  v_due farebox.ticket_queue[];
  v_claimed farebox.ticket_queue[];
  v_together int;
begin
  select array_agg(c.request)
  into v_due
  from (
    select q as request
    from farebox.ticket_queue as q
    where q.ready_at <= v_now
    order by q.ready_at
    limit (p_limit + 1) / 2
    for update skip locked
  ) as c;

  -- A loop, because a claim may find nothing above the floor, or only requests of paused companies.
  loop
    -- While somebody holds an old snapshot, deleted rows stay in the index in front of the living, and a claim that began there
    -- would wade through them all. So it begins at the floor, which follows what was claimed. Below it can only be what came
    -- back because a worker died, or was committed late: looked for as often as that takes a tenth of the time at most.
    if v_may_sweep and (v_clock >= v_sweep or v_sweep > v_clock + 60000) then
      v_may_sweep := false;
      v_lowest := (select q.rank from farebox.ticket_queue as q where q.rank is not null order by q.rank limit 1);
      v_sweep := (date_part('epoch', clock_timestamp()) * 1000)::bigint;
      v_sweep := v_sweep + greatest(20, 10 * (v_sweep - v_clock));
      if v_lowest < v_floor then
        v_floor := v_lowest;
        perform setval('farebox.ticket_queue_floor', v_floor);
      end if;
      -- An idle worker whose look costs nothing writes nothing.
      if v_lowest is not null or v_sweep > v_clock + 100 then
        perform setval('farebox.ticket_queue_sweep', v_sweep);
      end if;
    end if;

    select array_agg(c.request)
    into v_claimed
    from (
      select q as request
      from farebox.ticket_queue as q
      where q.rank >= v_floor
      order by q.rank, q.id
      limit p_limit - coalesce(cardinality(v_due), 0)
      for update skip locked
    ) as c;
    if v_claimed[1].rank > v_floor then
      v_floor := v_claimed[1].rank;
      perform setval('farebox.ticket_queue_floor', v_floor);
    end if;
    v_claimed := v_due || v_claimed;

    if v_claimed is null then
      exit when not v_may_sweep or v_sweep > v_clock + 50;  -- else the sweep costs little and makes sure
      v_sweep := 0;
    else
      exit when v_paused = '{}';
      update farebox.ticket_queue as q
      set rank = null, ready_at = null
      where q.id in (select c.id from unnest(v_claimed) as c where c.company_id = any (v_paused));
      exit when not found;
      v_due := null;
      v_claimed := array(select c from unnest(v_claimed) as c where c.company_id <> all (v_paused));
      exit when v_claimed <> '{}';
    end if;
  end loop;

  -- Requests under suspicion and the others take turns, by chance, so that neither holds up the other.
  v_together := (select min(c.together)::int from unnest(v_claimed) as c);
  if v_together is null then
    return v_claimed;
  elsif random() < 0.5 and exists (select from unnest(v_claimed) as c where c.together is null) then
    return array(select c from unnest(v_claimed) as c where c.together is null);
  end if;
  return array(select c from unnest(v_claimed) as c where c.together is not null limit v_together);
end
$$;

comment on function farebox._claim_requests(int) is 'Internal: takes the queued requests that are next';

reset role;
