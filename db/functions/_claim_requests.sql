-- Purpose: takes the requests that are next: those whose backoff is over, then the first in line.
-- Parameters: p_limit; p_most_due, how many of those in backoff at most (if nobody is in line, one more than none);
--   p_with_care, also those whose last attempt began and never ended.
-- Returns: their ids, null when there is nothing to do (then the next producer rings), where their rows are, if that is known, and the
--   requests as a JSON array; those that must be tried in small company never come with others.
-- Locks and writes: ticket_queue, ticket_queue_pauses (shared), never waiting. Paused companies' requests leave the line.
set role farebox_owner;

create function farebox._claim_requests(p_limit int, p_most_due int, p_with_care boolean, out ids bigint[], out places tid[], out batch json)
language plpgsql volatile security invoker
-- Where statistics say that the table is empty, all indexes look alike: only that of the line gives the order without a sort.
set enable_sort = off
as $$
declare
  -- Locked, so that resuming a company waits for those who have seen it paused; one that is being resumed is not paused.
  v_paused uuid[] := array(select p.company_id from farebox.ticket_queue_pauses as p for share skip locked);
  v_floor bigint := coalesce(pg_sequence_last_value('farebox.ticket_queue_floor'), 0);
  v_tick bigint := coalesce(pg_sequence_last_value('farebox.ticket_queue_tick'), 0);
  v_sweep bigint := coalesce(pg_sequence_last_value('farebox.ticket_queue_sweep'), 0);
  v_sleeps boolean := coalesce(pg_sequence_last_value('farebox.ticket_queue_bell'), 0) = 1;
  v_now timestamptz := farebox._now();
  v_clock bigint := (date_part('epoch', clock_timestamp()) * 1000)::bigint;  -- the real one: this is housekeeping, no rule
  v_may_sweep boolean := true;
  v_most_due int := p_most_due;
  v_lowest bigint;
  v_first bigint;
  v_due bigint[];
  v_line bigint[];
  v_is_plain boolean;
  v_together int;
begin
  -- A loop, because a claim may find nothing above the floor, or only requests of paused companies.
  loop
    v_due := array(
      select q.id
      from farebox.ticket_queue as q
      where q.ready_at <= v_now and (p_with_care or q.reason is distinct from 'unfinished')
      order by q.ready_at
      limit v_most_due
      for update skip locked);
    -- No backoff is as long as an hour: a clock that was far ahead has been set back. (In one statement the two would walk the whole index.)
    if cardinality(v_due) < v_most_due then
      v_due := v_due || array(
        select q.id
        from farebox.ticket_queue as q
        where q.ready_at > v_now + interval '1 hour' and (p_with_care or q.reason is distinct from 'unfinished')
        order by q.ready_at
        limit v_most_due - cardinality(v_due)
        for update skip locked);
    end if;

    -- While somebody holds an old snapshot, deleted rows stay in the index in front of the living, and a claim that began there
    -- would wade through them all. So it begins at the floor, which follows what was claimed (see _raise_queue_floor). What is
    -- below it all the same is looked for as often as that takes a hundredth of the time at most, but once a minute.
    if v_may_sweep and (v_clock >= v_sweep or v_sweep > v_clock + 60000) then
      v_may_sweep := false;
      v_lowest := (select q.rank from farebox.ticket_queue as q where q.rank is not null order by q.rank limit 1);
      v_sweep := (date_part('epoch', clock_timestamp()) * 1000)::bigint;
      v_sweep := v_sweep + least(60000, greatest(20, 100 * (v_sweep - v_clock)));
      -- An idle worker whose look costs nothing writes nothing.
      if v_lowest is not null or v_sweep > v_clock + 100 then
        perform setval('farebox.ticket_queue_sweep', v_sweep);
      end if;
    end if;

    select min(c.rank), array_agg(c.id), array_agg(c.place), json_agg(c.request), bool_and(c.together is null)
    into v_first, v_line, places, batch, v_is_plain
    from (
      select q.id, q.ctid as place, q.rank, q.together, q.request
      from farebox.ticket_queue as q
      where q.rank >= least(v_floor, v_lowest)
      order by q.rank, q.id
      limit p_limit - cardinality(v_due)
      for update skip locked
    ) as c;
    if v_first < v_floor then
      perform setval('farebox.ticket_queue_floor', v_first);
    end if;
    if v_first is not null and (v_clock >= v_tick or v_tick > v_clock + 60000) then
      perform farebox._raise_queue_floor(v_first);
    end if;
    ids := v_due || v_line;

    if ids = '{}' then
      if v_most_due = 0 then
        v_most_due := 1;
      elsif not v_sleeps then
        -- From now on producers ring. Whoever looked at the bell before has committed by the second look, or nearly so.
        perform setval('farebox.ticket_queue_bell', 1);
        v_sleeps := true;
      elsif v_may_sweep and v_sweep <= v_clock + 100 then
        v_sweep := 0;  -- it costs little and makes sure
      else
        ids := null;
        return;
      end if;
    else
      exit when v_paused = '{}';
      update farebox.ticket_queue as q
      set rank = null, ready_at = null
      where q.id = any (ids) and v_paused @> array[q.company_id];  -- written so that no index serves but that of ids
      exit when not found;
      v_is_plain := false;
      v_due := '{}';
      ids := array(
        select i.id
        from unnest(ids) with ordinality as i(id, ordinal)
        cross join lateral (select q.* from farebox.ticket_queue as q where q.id = i.id offset 0) as q
        where q.company_id <> all (v_paused)
        order by i.ordinal);
      exit when ids <> '{}';
    end if;
  end loop;

  if v_is_plain and v_due = '{}' then
    return;
  end if;
  places := null;

  -- Requests under suspicion and the others take turns, by chance, so that neither holds up the other.
  v_together := (select min(q.together)::int from farebox.ticket_queue as q where q.id = any (ids));
  if v_together is not null then
    v_is_plain := random() < 0.5 and exists (select from farebox.ticket_queue as q where q.id = any (ids) and q.together is null);
    ids := array(
      select i.id
      from unnest(ids) with ordinality as i(id, ordinal)
      cross join lateral (select q.* from farebox.ticket_queue as q where q.id = i.id offset 0) as q
      where (q.together is null) = v_is_plain
      order by i.ordinal
      limit case when not v_is_plain then v_together end);
  end if;
  batch := (
    select json_agg(q.request order by i.ordinal)
    from unnest(ids) with ordinality as i(id, ordinal)
    cross join lateral (select q.* from farebox.ticket_queue as q where q.id = i.id offset 0) as q);
end
$$;

comment on function farebox._claim_requests(int, int, boolean) is 'Internal: takes the queued requests that are next';

reset role;
