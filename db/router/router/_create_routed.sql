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
    v_outcomes := farebox._create_at(v_part.ats, v_part.partitions, v_part.ordinals, v_part.retaken, v_part.batch_ids, v_part.batches);
  end if;
  return farebox._complete_outcomes(p_elements, v_elements, v_outcomes, v_claims, p_has_registry, p_attempt);
end
$$;
comment on function farebox._create_routed(farebox._routed_element[], boolean, int) is
  'Internal: the elements of a batch go to their shards; their outcomes';

-- The parts go to their shards.  Returns: the outcomes, in any order, of those that answer.
create or replace function farebox._create_at(
  p_ats int[], p_partitions text[], p_ordinals text[], p_retaken text[], p_batch_ids uuid[], p_batches text[])
returns farebox.ticket_outcome[]
language plpgsql volatile security invoker
as $$
declare
  v_outcomes farebox.ticket_outcome[] := '{}';
  v_lost int[] := '{}';
  v_from int;
  v_to int;
begin
  -- 0: all shards together. If one did not answer, and with it nobody, the others have done their part, or are still at it. Asked
  -- again, each alone, they tell: what the first attempt created they know by the batch's id, so it is still `created`.
  for i in 0 .. cardinality(p_ats) loop
    continue when p_ats[i] = any (v_lost);
    v_from := greatest(i, 1);
    v_to := case i when 0 then cardinality(p_ats) else i end;
    begin
      v_outcomes := v_outcomes || array(
        select o from farebox._at_create_tickets(p_ats[v_from:v_to], p_partitions[v_from:v_to], p_ordinals[v_from:v_to],
          p_retaken[v_from:v_to], p_batch_ids[v_from:v_to], array_fill(i > 0, array[v_to - v_from + 1]), p_batches[v_from:v_to]) as o);
      exit when i = 0;
    exception when others or query_canceled then
      v_lost := v_lost || farebox._find_lost(p_ats[v_from:v_to], sqlstate, sqlerrm);
    end;
  end loop;
  return v_outcomes;
end
$$;
comment on function farebox._create_at(int[], text[], text[], text[], uuid[], text[]) is
  'Internal: parts of a batch go to their shards; the outcomes of those that answer';

-- The outcomes of all elements, of which the shards have answered some.
-- Parameters: p_elements, as they came; p_refused, the same with the reasons why some were not sent; p_outcomes; p_claims.
create or replace function farebox._complete_outcomes(
  p_elements farebox._routed_element[], p_refused farebox._routed_element[], p_outcomes farebox.ticket_outcome[],
  p_claims farebox._routed_claim[], p_has_registry boolean, p_attempt int)
returns farebox.ticket_outcome[]
language plpgsql volatile security invoker
as $$
declare
  v_outcomes farebox.ticket_outcome[] := p_outcomes;
  v_stolen int[] := '{}';
  v_is_nameless boolean := false;
begin
  if p_has_registry then
    select coalesce(array_agg(o.ordinal) filter (where o.reason = 'transaction_id_unavailable'), '{}'),
      coalesce(bool_or(o.reason = 'company_id_invalid'), false)
    into v_stolen, v_is_nameless
    from unnest(v_outcomes) as o
    where o.reason is not null;
  end if;
  if p_claims <> '{}' or v_is_nameless then
    perform farebox._resolve_elsewhere(p_refused, v_outcomes, p_claims);
  end if;
  if v_stolen <> '{}' then
    -- Between the claim and the ticket another company asked for the payment. Whoever has a ticket now keeps it; if that company's
    -- request came to nothing, the payment comes back. After some times it is not known whose it is: no answer, below.
    v_outcomes := array(select o from unnest(v_outcomes) as o where o.ordinal <> all (v_stolen));
    if p_attempt < 4 then
      v_outcomes := v_outcomes || farebox._create_routed(
        array(select e from unnest(p_elements) as e where e.ordinal = any (v_stolen)), p_has_registry, p_attempt + 1);
    end if;
  end if;
  if cardinality(v_outcomes) < cardinality(p_refused) then
    v_outcomes := v_outcomes || array(
      select row(e.ordinal, e.given_id, 'rejected', coalesce(e.reason, 'shard_unavailable'), null, null, null, false)::farebox.ticket_outcome
      from unnest(p_refused) as e
      left join unnest(v_outcomes) as o on o.ordinal = e.ordinal
      where o.ordinal is null);  -- not by its shard, which may be another one by now
  end if;
  return v_outcomes;
end
$$;
comment on function farebox._complete_outcomes(farebox._routed_element[], farebox._routed_element[], farebox.ticket_outcome[],
  farebox._routed_claim[], boolean, int) is 'Internal: the outcomes of all elements of a batch, of which the shards have answered some';

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
    array_agg(case when p_claims = '{}' then '[]' else coalesce((
      select json_agg(json_build_array(c.subject, c.asking, c.number))
      from unnest(p_claims) as c
      where c.number > 1 and c.reason is null
        and c.asking in (select e.company_id from unnest(p_elements) as e where e.at = g.at))::text, '[]') end),
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
