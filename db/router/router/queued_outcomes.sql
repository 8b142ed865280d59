-- Purpose: as db/functions/queued_outcomes.sql, over all shards. Requests of a lost shard wait, as it seems from here.
-- Raises: TK001, TK002, TK003.
set role farebox_owner;

create or replace function farebox.queued_outcomes(p_queue_ids bigint[], p_batch json)
returns setof farebox.ticket_outcome
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
set jit = off
as $$
declare
  v_elements farebox._routed_element[];
  v_down int[] := farebox._shards_down();
  v_part record;
  v_ids text[];
  v_from int;
  v_to int;
  v_outcomes farebox.ticket_outcome[] := '{}';
  v_map int[] := (select array_agg(p.at order by p.partition) from farebox.partitions as p);
begin
  v_elements := farebox._route_requests(p_batch);
  if p_queue_ids is null or cardinality(p_queue_ids) <> cardinality(v_elements) then
    raise exception using errcode = 'TK003',
      message = format('%s queue ids for %s requests', coalesce(cardinality(p_queue_ids)::text, 'null'), cardinality(v_elements)),
      hint = 'pass the id of each request';
  end if;
  v_part := farebox._parts(v_elements, '{}', v_down);
  if v_part.ats is null then
    return;
  end if;
  v_ids := array(
    select (select array_agg(p_queue_ids[e.ordinal] order by e.ordinal) from unnest(v_elements) as e where e.at = a.at)::text
    from unnest(v_part.ats) with ordinality as a(at, place)
    order by a.place);
  -- 0: all shards together; if one did not answer, and with it nobody, each that does alone.
  for i in 0 .. cardinality(v_part.ats) loop
    continue when v_part.ats[i] = any (v_down);
    v_from := greatest(i, 1);
    v_to := case i when 0 then cardinality(v_part.ats) else i end;
    begin
      v_outcomes := v_outcomes || array(select o from farebox._at_queued_outcomes(
        v_part.ats[v_from:v_to], v_part.ordinals[v_from:v_to], v_ids[v_from:v_to], v_part.batches[v_from:v_to]) as o);
      exit when i = 0;
    exception when others or query_canceled then
      v_down := v_down || farebox._find_lost(v_part.ats[v_from:v_to], sqlstate, sqlerrm);
    end;
  end loop;
  -- A partition has moved meanwhile: who has nothing of a request any more would say that it was dropped. Ask again.
  if v_map is distinct from (select array_agg(p.at order by p.partition) from farebox.partitions as p) then
    return;
  end if;
  return query select o.* from farebox._in_order(v_outcomes) as o;
end
$$;

reset role;
