-- Purpose: as db/functions/enqueue_tickets.sql, over all shards: each request is stored on its company's.
-- Returns: for each, in order, its queue id; null where its shard is lost: that request is not stored.  Raises: TK001, TK002, TK005.
set role farebox_owner;

create or replace function farebox.enqueue_tickets(p_batch json)
returns table (ordinal int, queue_id bigint)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
set plan_cache_mode = force_generic_plan
set jit = off
as $$
declare
  v_elements farebox._routed_element[];
  v_down int[] := farebox._shards_down();
  v_claimed record;
  v_claims farebox._routed_claim[] := '{}';
  v_part record;
  v_denied text[];
  v_from int;
  v_to int;
  v_ordinals int[] := '{}';
  v_ids bigint[] := '{}';
  v_stored record;
begin
  perform farebox._refuse_strict_isolation();
  v_elements := farebox._route_requests(p_batch);
  if (select s.has_registry from farebox.sharding as s) then
    v_claimed := farebox._claim_subjects(v_elements, 'p', v_down);
    -- What is another company's is stored all the same, and refused when its turn comes.
    v_claims := array(select c from unnest(v_claimed.claims) as c where c.reason is distinct from 'shard_unavailable');
    v_elements := farebox._refuse_unclaimed(v_elements,
      array(select c from unnest(v_claimed.claims) as c where c.reason = 'shard_unavailable'), v_down || v_claimed.lost);
  end if;

  v_part := farebox._parts(v_elements, v_claims, v_down);
  v_denied := array(
    select coalesce((
      select json_agg(json_build_array(c.subject, c.asking, c.number))
      from unnest(v_claims) as c
      where c.reason is not null and c.asking in (select e.company_id from unnest(v_elements) as e where e.at = a.at))::text, '[]')
    from unnest(v_part.ats) with ordinality as a(at, place)
    order by a.place);
  -- 0: all shards together; if one did not answer, and with it nobody, each that does alone (see _create_routed). What the first
  -- attempt stored is stored twice then, which buys one ticket all the same.
  for i in 0 .. coalesce(cardinality(v_part.ats), -1) loop
    continue when v_part.ats[i] = any (v_down);
    v_from := greatest(i, 1);
    v_to := case i when 0 then cardinality(v_part.ats) else i end;
    begin
      select array_agg(q.ordinal) as ordinals, array_agg(q.queue_id) as ids into v_stored
      from farebox._at_enqueue_tickets(v_part.ats[v_from:v_to], v_part.partitions[v_from:v_to], v_part.ordinals[v_from:v_to],
        v_part.retaken[v_from:v_to], v_denied[v_from:v_to], v_part.batches[v_from:v_to]) as q;
      v_ordinals := v_ordinals || v_stored.ordinals;
      v_ids := v_ids || v_stored.ids;
      exit when i = 0;
    exception when others or query_canceled then
      v_down := v_down || farebox._find_lost(v_part.ats[v_from:v_to], sqlstate, sqlerrm);
    end;
  end loop;
  perform farebox._wake_workers();

  return query
    select e.ordinal, s.id
    from unnest(v_elements) as e
    left join unnest(v_ordinals, v_ids) as s(ordinal, id) on s.ordinal = e.ordinal
    order by e.ordinal;
end
$$;

reset role;
