-- Purpose: as db/functions/process_ticket_queue.sql: one batch of one shard, another one each time. A lost shard's queue waits.
set role farebox_owner;

-- The shards in the order in which a worker asks them, beginning with another one each time; without those taken for lost.
create or replace function farebox._shards_in_turn()
returns setof int
language plpgsql volatile security invoker
as $$
declare
  v_turn bigint := nextval('farebox.queue_turn');
  v_ats int[] := array(select distinct p.at from farebox.partitions as p order by p.at);
  v_down int[] := farebox._shards_down();
begin
  return query
    select a.at
    from unnest(v_ats) with ordinality as a(at, place)
    where a.at <> all (v_down)
    order by (a.place + v_turn) % cardinality(v_ats);
end
$$;
comment on function farebox._shards_in_turn() is 'Internal: the shards in the order in which a worker asks them';

-- Queued requests that a shard refused because their company had given the payment up: it was another's when they were claimed, but that
-- one may have made nothing of it. Asked for again by the router, the payment comes back, or is told to be another's for good.
-- Returns: how many tickets were made. Some may be of requests that an earlier call was told of but could not ask for.
create or replace function farebox._retake_refused(p_at int)
returns int
language plpgsql volatile security invoker
as $$
declare
  v_refused record;
  v_outcome farebox.ticket_outcome;
  v_created int := 0;
begin
  if not (select s.has_registry from farebox.sharding as s) then
    return 0;
  end if;
  -- A loop, each request by itself: one of them may be poison. What cannot be asked now is asked the next time.
  for v_refused in select r.id, r.request from farebox._at_refused_requests(p_at) as r loop
    begin
      select o.* into v_outcome from farebox.create_tickets(json_build_array(v_refused.request)) as o;
    exception when others then
      continue;
    end;
    continue when v_outcome.reason = 'shard_unavailable';
    v_created := v_created + case when v_outcome.outcome = 'created' then 1 else 0 end;
    -- Whatever else is wrong with it is kept as an unapplied payment by now.
    perform farebox._at_settle_refused(p_at, v_refused.id, case
      when v_outcome.outcome = 'conflict' then array_to_string(v_outcome.differing, ', ')
      when v_outcome.reason = 'transaction_id_unavailable' then 'another company has its ticket'
    end);
  end loop;
  return v_created;
exception when others then
  return v_created;  -- what the shard has done stands, and is told
end
$$;
comment on function farebox._retake_refused(int) is
  'Internal: asks for the tickets of queued requests whose payment was given up';

create or replace function farebox.process_ticket_queue(p_limit int default 100)
returns table (taken int, created int, duplicates int, conflicts int, rejected int, retried int, dead int)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
declare
  v_at int;
  v_counts record;
  v_created int := 0;
begin
  perform farebox._check_limit(p_limit, 10000);

  for v_at in select t.at from farebox._shards_in_turn() as t(at) loop
    begin
      select c.* into v_counts from farebox._at_process_ticket_queue(v_at, p_limit) as c;
    exception when others or query_canceled then
      -- What the shard had taken is put back there; the others go on.
      perform farebox._find_lost(array[v_at], sqlstate, sqlerrm);
      continue;
    end;
    continue when v_counts.taken = 0;
    if v_counts.rejected > 0 then
      v_created := farebox._retake_refused(v_at);
    end if;
    return query select v_counts.taken, v_counts.created + v_created, v_counts.duplicates, v_counts.conflicts,
      greatest(v_counts.rejected - v_created, 0), v_counts.retried, v_counts.dead;
    return;
  end loop;
  -- From now on whoever enqueues here rings.
  if (select b.last_value from farebox.ticket_queue_bell as b) = 0 then
    perform setval('farebox.ticket_queue_bell', 1);
  end if;
  return query select 0, 0, 0, 0, 0, 0, 0;
end
$$;

reset role;
