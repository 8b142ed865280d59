-- Purpose: the elements of a batch go to their shards, and their outcomes come back.
-- Parameters: p_elements, in which no payment is named by two companies.  Returns: the outcomes, in any order. Those of a shard that does not
--   answer are rejected with shard_unavailable: the others' stand.
set role farebox_owner;

create or replace function farebox._create_routed(
  p_elements farebox._routed_element[], p_has_registry boolean, p_attempt int default 1)
returns farebox.ticket_outcome[]
language plpgsql volatile security invoker
as $$
declare
  v_elements farebox._routed_element[] := p_elements;
  v_down int[] := farebox._shards_down();
  v_claimed record;
  v_claims farebox._routed_claim[] := '{}';
  v_part record;
  v_outcomes farebox.ticket_outcome[] := '{}';
  v_stolen int[] := '{}';
  v_is_nameless boolean := false;
begin
  if p_has_registry then
    v_claimed := farebox._claim_subjects(p_elements, 'p', v_down);
    v_claims := v_claimed.claims;
    if v_claims <> '{}' or v_claimed.lost <> '{}' or v_down <> '{}' then
      v_elements := farebox._refuse_unclaimed(p_elements, v_claims, v_down || v_claimed.lost);
    end if;
  end if;

  v_part := farebox._parts(v_elements, v_claims, v_down);
  if v_part.ats is not null then
    begin
      v_outcomes := array(
        select o from farebox._at_create_tickets(v_part.ats, v_part.partitions, v_part.ordinals, v_part.retaken, v_part.batch_ids,
          array_fill(false, array[cardinality(v_part.ats)]), v_part.batches) as o);
    exception when others or query_canceled then
      v_down := v_down || farebox._find_lost(v_part.ats, sqlstate, sqlerrm);
      -- One shard did not answer, and with it all answers are lost, though the others have done their part, or are still at it. Asked
      -- again, each alone, they tell: what the first attempt created they know by the batch's id, so it is still `created`.
      for i in 1 .. cardinality(v_part.ats) loop
        continue when v_part.ats[i] = any (v_down);
        begin
          v_outcomes := v_outcomes || array(
            select o from farebox._at_create_tickets(v_part.ats[i:i], v_part.partitions[i:i], v_part.ordinals[i:i], v_part.retaken[i:i],
              v_part.batch_ids[i:i], array[true], v_part.batches[i:i]) as o);
        exception when others or query_canceled then
          perform farebox._find_lost(v_part.ats[i:i], sqlstate, sqlerrm);
          v_down := v_down || v_part.ats[i];
        end;
      end loop;
    end;
  end if;

  if p_has_registry then
    select coalesce(array_agg(o.ordinal) filter (where o.reason = 'transaction_id_unavailable'), '{}'),
      coalesce(bool_or(o.reason = 'company_id_invalid'), false)
    into v_stolen, v_is_nameless
    from unnest(v_outcomes) as o
    where o.reason is not null;
  end if;
  if v_claims <> '{}' or v_is_nameless then
    perform farebox._resolve_elsewhere(v_elements, v_outcomes, v_claims);
  end if;
  if v_stolen <> '{}' and p_attempt < 4 then
    -- Between the claim and the ticket another company asked for the payment. Whoever has a ticket now keeps it; if that company's
    -- request came to nothing, the payment comes back.
    v_outcomes := array(select o from unnest(v_outcomes) as o where o.ordinal <> all (v_stolen)) || farebox._create_routed(
      array(select e from unnest(p_elements) as e where e.ordinal = any (v_stolen)), p_has_registry, p_attempt + 1);
  end if;
  if cardinality(v_outcomes) < cardinality(v_elements) then
    v_outcomes := v_outcomes || array(
      select row(e.ordinal, e.given_id, 'rejected', coalesce(e.reason, 'shard_unavailable'), null, null, null, false)::farebox.ticket_outcome
      from unnest(v_elements) as e
      where e.reason is not null or e.at = any (v_down));
  end if;
  return v_outcomes;
end
$$;
comment on function farebox._create_routed(farebox._routed_element[], boolean, int) is
  'Internal: the elements of a batch go to their shards; their outcomes';

-- The elements, with a reason for those whose payment is another company's, or could not be claimed.
create or replace function farebox._refuse_unclaimed(
  p_elements farebox._routed_element[], p_claims farebox._routed_claim[], p_lost int[])
returns farebox._routed_element[]
language sql stable security invoker
as $$
  select coalesce(array_agg(row(e.ordinal, e.given_id, e.subject, e.company_id, e.partition, e.at, e.home, e.home_at,
    coalesce(e.reason, case when e.home_at = any (p_lost) then 'shard_unavailable' end, c.reason), e.request)::farebox._routed_element
    order by e.ordinal), '{}')
  from unnest(p_elements) as e
  left join unnest(p_claims) as c on c.subject = e.subject and c.asking = e.company_id and c.reason is not null
$$;
comment on function farebox._refuse_unclaimed(farebox._routed_element[], farebox._routed_claim[], int[]) is
  'Internal: refuses the elements whose payment could not be claimed';

-- The elements in one part for each shard, as PL/Proxy wants them: arrays with an element a shard.
create or replace function farebox._parts(p_elements farebox._routed_element[], p_claims farebox._routed_claim[], p_down int[],
  out ats int[], out partitions text[], out ordinals text[], out retaken text[], out batch_ids uuid[], out batches text[])
language plpgsql volatile security invoker
as $$
begin
  select
    array_agg(g.at), array_agg(g.partitions), array_agg(g.ordinals),
    array_agg(case when p_claims = '{}' then '{}' else coalesce((
      select json_object_agg(c.subject, c.number)
      from unnest(p_claims) as c
      where c.number > 1 and c.reason is null
        and c.asking in (select e.company_id from unnest(p_elements) as e where e.at = g.at))::text, '{}') end),
    array_agg(farebox._uuid_v7()), array_agg(g.batch)
  into ats, partitions, ordinals, retaken, batch_ids, batches
  from (
    -- In the order of the elements, as which they come: sorted once, not for each column.
    select e.at, array_agg(e.partition)::text as partitions, array_agg(e.ordinal)::text as ordinals,
      '[' || string_agg(e.request::text, ',') || ']' as batch
    from (
      select e.at, e.partition, e.ordinal, e.request
      from unnest(p_elements) as e
      where e.reason is null and e.at <> all (p_down)
      order by e.at, e.ordinal) as e
    group by e.at
  ) as g;
end
$$;
comment on function farebox._parts(farebox._routed_element[], farebox._routed_claim[], int[]) is
  'Internal: the elements of a batch, in one part for each shard';

reset role;
