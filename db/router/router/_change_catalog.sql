-- Purpose: companies, routes and codes over all shards, each on its company's.
-- Parameters: p_function, whose meaning it has; p_batch.  Returns: the outcomes, in order; rejected with shard_unavailable where a shard is lost.
-- Raises: TK001, TK002, TK005.  Drivers' caches that listen here are told.
set role farebox_owner;

-- The elements, of which no code is named by two companies, go to their shards.
create or replace function farebox._change_routed(p_function text, p_elements farebox._routed_element[], p_has_registry boolean)
returns farebox.catalog_outcome[]
language plpgsql volatile security invoker
as $$
declare
  v_elements farebox._routed_element[] := p_elements;
  v_down int[] := farebox._shards_down();
  v_claimed record;
  v_claims farebox._routed_claim[] := '{}';
  v_part record;
  v_from int;
  v_to int;
  v_outcomes farebox.catalog_outcome[] := '{}';
begin
  if p_has_registry then
    v_claimed := farebox._claim_subjects(v_elements, 'c', v_down);
    v_claims := v_claimed.claims;
    v_elements := farebox._refuse_unclaimed(p_elements, v_claims, v_down || v_claimed.lost);
  end if;
  v_part := farebox._parts(v_elements, v_claims, v_down);
  -- 0: all shards together; if one did not answer, and with it nobody, each that does alone (see _create_routed).
  for i in 0 .. coalesce(cardinality(v_part.ats), -1) loop
    continue when v_part.ats[i] = any (v_down);
    v_from := greatest(i, 1);
    v_to := case i when 0 then cardinality(v_part.ats) else i end;
    begin
      v_outcomes := v_outcomes || array(select o from farebox._at_change_catalog(
        v_part.ats[v_from:v_to], p_function, v_part.partitions[v_from:v_to], v_part.ordinals[v_from:v_to],
        v_part.retaken[v_from:v_to], v_part.batches[v_from:v_to]) as o);
      exit when i = 0;
    exception when others or query_canceled then
      v_down := v_down || farebox._find_lost(v_part.ats[v_from:v_to], sqlstate, sqlerrm) || v_part.ats[i:i];
    end;
  end loop;

  return v_outcomes || array(
    select row(e.ordinal, farebox._uuid(farebox._jsonb_text(farebox._json_object(e.request), 'id')), 'rejected',
      coalesce(e.reason, 'shard_unavailable'))::farebox.catalog_outcome
    from unnest(v_elements) as e
    where e.reason is not null or e.at = any (v_down));
end
$$;
comment on function farebox._change_routed(text, farebox._routed_element[], boolean) is
  'Internal: a part of a catalog batch goes to its shards';

create or replace function farebox._change_catalog(p_function text, p_batch json)
returns setof farebox.catalog_outcome
language plpgsql volatile security invoker
as $$
declare
  v_elements farebox._routed_element[];
  v_ats int[] := (select array_agg(p.at order by p.partition) from farebox.partitions as p);
  v_has_registry boolean := (select s.has_registry from farebox.sharding as s);
  v_starts int[] := array[1];
  v_named_here int[];
  v_outcomes farebox.catalog_outcome[] := '{}';
begin
  perform farebox._refuse_strict_isolation();
  perform farebox._batch_length(p_batch);

  -- A new company gets its id here, since by the id its shard is found; a route, so that it is not made twice when it is asked for
  -- again because an answer was lost. (A code is known by itself.)
  select coalesce(array_agg(row(
    o.ordinal, o.company_id::text, o.code, o.company_id, farebox._partition_of(o.company_id::text),
    v_ats[farebox._partition_of(o.company_id::text) + 1],
    case when o.code is not null and v_has_registry then farebox._partition_of(o.code) end,
    case when o.code is not null and v_has_registry then v_ats[farebox._partition_of(o.code) + 1] end,
    null, coalesce(o.object::json, o.request))::farebox._routed_element order by o.ordinal), '{}'),
    coalesce(array_agg(o.ordinal) filter (where o.is_named_here), '{}')
  into v_elements, v_named_here
  from (
    select
      n.ordinal::int as ordinal, n.request, n.object, n.is_named_here,
      farebox._uuid(farebox._jsonb_text(n.object, case when p_function = 'upsert_companies' then 'id' else 'company_id' end)) as company_id,
      case when p_function = 'issue_payment_codes' and length(farebox._jsonb_text(n.object, 'code')) between 1 and 64
          and farebox._uuid(farebox._jsonb_text(n.object, 'company_id')) is not null
        then farebox._jsonb_text(n.object, 'code') end as code
    from (
      select j.ordinal, j.request, j.is_named_here,
        case when j.is_named_here then j.object || jsonb_build_object('id', farebox._uuid_v7()) else j.object end as object
      from (
        select e.ordinal, e.request, g.object,
          p_function in ('upsert_companies', 'upsert_routes') and coalesce(g.object -> 'id', 'null') = 'null' as is_named_here
        from json_array_elements(p_batch) with ordinality as e(request, ordinal)
        cross join lateral (select farebox._json_object(e.request) as object offset 0) as g
        offset 0
      ) as j
    ) as n
    offset 0
  ) as o;

  if v_has_registry then
    v_starts := farebox._segments(v_elements);
  end if;
  for i in 1 .. cardinality(v_starts) loop
    v_outcomes := v_outcomes || farebox._change_routed(p_function,
      v_elements[v_starts[i] : coalesce(v_starts[i + 1] - 1, cardinality(v_elements))],
      p_function = 'issue_payment_codes' and v_has_registry);
  end loop;

  perform pg_notify('farebox_catalog', c.company_id::text)
  from (
    select distinct e.company_id
    from unnest(v_outcomes) as o
    join unnest(v_elements) as e on e.ordinal = o.ordinal
    where o.outcome in ('updated', 'cancelled')
    limit 100) as c;
  return query
    select o.ordinal, case when o.outcome <> 'rejected' or o.ordinal <> all (v_named_here) then o.id end, o.outcome, o.reason
    from unnest(v_outcomes) as o
    order by o.ordinal;
end
$$;
comment on function farebox._change_catalog(text, json) is 'Internal: changes the catalog over all shards';

do $$
declare
  v_name text;
begin
  foreach v_name in array array['upsert_companies', 'upsert_routes', 'issue_payment_codes', 'cancel_payment_codes'] loop
    execute format(
      'create or replace function farebox.%s(p_batch json) returns setof farebox.catalog_outcome language plpgsql volatile security definer'
      ' set search_path = pg_catalog, pg_temp set standard_conforming_strings = on as %L',
      v_name, format('begin return query select c.* from farebox._change_catalog(%L, p_batch) as c; end', v_name));
  end loop;
end
$$;

reset role;
