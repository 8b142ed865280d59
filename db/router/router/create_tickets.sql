-- Purpose: as db/functions/create_tickets.sql, over all shards. Each shard commits by itself: a ROLLBACK here undoes nothing.
-- Parameters: p_batch.  Returns: one outcome for each element, in order; rejected with shard_unavailable where a shard is lost.
-- Raises: TK001, TK002, TK005.
set role farebox_owner;

create or replace function farebox.create_tickets(p_batch json)
returns setof farebox.ticket_outcome
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
set plan_cache_mode = force_generic_plan
set jit = off
as $$
declare
  v_has_registry boolean := (select s.has_registry from farebox.sharding as s);
  v_elements farebox._routed_element[];
  v_starts int[] := array[1];
  v_outcomes farebox.ticket_outcome[];
begin
  perform farebox._refuse_strict_isolation();
  v_outcomes := farebox._create_ordinary(p_batch, v_has_registry);
  if v_outcomes is not null then
    return query select o.* from farebox._in_order(v_outcomes) as o;
    return;
  end if;

  v_elements := farebox._route_requests(p_batch);
  if v_has_registry then
    v_starts := farebox._segments(v_elements);
  end if;
  for i in 1 .. cardinality(v_starts) loop
    v_outcomes := farebox._create_routed(
      case when cardinality(v_starts) = 1 then v_elements else v_elements[v_starts[i] : coalesce(v_starts[i + 1] - 1, cardinality(v_elements))] end,
      v_has_registry);
    return query select o.* from farebox._in_order(v_outcomes) as o;
  end loop;
end
$$;

reset role;
