-- Purpose: claims the payments (or codes) of a batch for their companies, in the registry.
-- Parameters: p_elements, those with a `home_at`; p_kind, p or c; p_down, shards taken for lost.
-- Returns: claims, what is not simply the asking company's now: `reason` (transaction_id_unavailable, code_taken, shard_unavailable), or
--   the number of a claim that has changed hands; lost, the shards that could not be asked.
-- A claim is committed before anything is sold, and is never taken back by who made it: the same company's retry finds it. Another
-- company that asks gets it when the first one's shard confirms that nothing came of it, and voids it there (_shard_yield).
set role farebox_owner;

create or replace function farebox._claim_subjects(p_elements farebox._routed_element[], p_kind text, p_down int[],
  out claims farebox._routed_claim[], out lost int[])
language plpgsql volatile security invoker
as $$
declare
  v_part record;
  v_from int;
  v_to int;
  v_contest record;
  v_contests farebox._routed_claim[] := '{}';
begin
  claims := '{}';
  lost := '{}';
  select array_agg(g.home_at) as ats, array_agg(g.partitions) as partitions, array_agg(g.subjects) as subjects,
    array_agg(g.companies) as companies
  into v_part
  from (
    select e.home_at, array_agg(e.home)::text as partitions, array_agg(e.subject)::text as subjects,
      array_agg(e.company_id)::text as companies
    from unnest(p_elements) as e
    where e.home_at is not null and e.reason is null and e.home_at <> all (p_down)
    group by e.home_at
  ) as g;
  if v_part.ats is null then
    return;
  end if;

  -- 0: all shards together; if one did not answer, and with it nobody, each that does alone: a claim that is there already is found.
  for i in 0 .. cardinality(v_part.ats) loop
    continue when v_part.ats[i] = any (lost);
    v_from := greatest(i, 1);
    v_to := case i when 0 then cardinality(v_part.ats) else i end;
    begin
      claims := claims || array(
        select row(c.subject, c.asking, c.number, c.company_id::text, null, case when c.is_open then '{-1}'::int[] end)::farebox._routed_claim
        from farebox._at_claim(v_part.ats[v_from:v_to], p_kind, v_part.partitions[v_from:v_to], v_part.subjects[v_from:v_to],
          v_part.companies[v_from:v_to]) as c);
      exit when i = 0;
    exception when others or query_canceled then
      lost := lost || farebox._find_lost(v_part.ats[v_from:v_to], sqlstate, sqlerrm) || v_part.ats[i:i];
    end;
  end loop;

  -- A loop over what is contested or has been: nearly always nothing. (`reason` still holds whose it is.)
  if claims <> '{}' then
    for v_contest in select distinct on (c.subject, c.asking) c.* from unnest(claims) as c loop
      v_contests := v_contests || farebox._settle_claim(p_kind, v_contest.subject, v_contest.asking, v_contest.reason::uuid,
        v_contest.number, v_contest.resolve_ats is not null);
    end loop;
    claims := v_contests;
  end if;
end
$$;
comment on function farebox._claim_subjects(farebox._routed_element[], text, int[]) is
  'Internal: claims the payments or codes of a batch for their companies';

-- One payment or code: whose it is in the end.
create or replace function farebox._settle_claim(
  p_kind text, p_subject text, p_asking uuid, p_owner uuid, p_number int, p_is_open boolean)
returns farebox._routed_claim
language plpgsql volatile security invoker
as $$
declare
  c_nobody constant uuid := '00000000-0000-0000-0000-000000000000';
  v_home int := farebox._partition_of(p_subject);
  v_owner uuid := p_owner;
  v_number int := p_number;
  v_new_number int;
  v_yield record;
  v_claim farebox._routed_claim := row(p_subject, p_asking, null, null, null, '{}');
begin
  if p_number > 1 then
    -- Others have asked in vain before: what is kept of them may be on any shard.
    v_claim.resolve_ats := array(select distinct p.at from farebox.partitions as p);
  elsif p_is_open then
    v_claim.resolve_ats := array[v_home];
  end if;
  for v_try in 1 .. 5 loop
    if v_owner = p_asking then
      v_claim.number := v_number;
      return v_claim;
    end if;
    if v_owner <> c_nobody then
      select y.* into v_yield
      from farebox._at_yield(farebox._partition_of(v_owner::text), v_owner, p_kind, p_subject, v_number) as y;
      if v_yield.is_kept then
        v_claim.number := v_number;
        v_claim.reason := case p_kind when 'p' then 'transaction_id_unavailable' else 'code_taken' end;
        v_claim.ticket_id := v_yield.ticket_id;
        v_claim.resolve_ats := v_claim.resolve_ats || farebox._partition_of(p_asking::text);
        return v_claim;
      end if;
      if v_yield.is_open then
        v_claim.resolve_ats := v_claim.resolve_ats || farebox._partition_of(v_owner::text);
      end if;
    end if;
    v_new_number := (select t.number from farebox._at_take_over(v_home, p_kind, p_subject, v_owner, v_number, p_asking) as t(number));
    if v_new_number is not null then
      v_claim.number := v_new_number;
      return v_claim;
    end if;
    -- Somebody was faster: look again.
    select c.company_id, c.number into v_owner, v_number
    from farebox._at_claim(array[v_home], p_kind, array[array[v_home]::text], array[array[p_subject]::text], array[array[p_asking]::text]) as c;
    if not found then
      v_owner := p_asking;
      v_number := 1;
    end if;
  end loop;
  v_claim.reason := 'shard_unavailable';  -- five others in the meantime: ask again
  return v_claim;
exception when others or query_canceled then
  perform farebox._skip_lost_shard(sqlstate, sqlerrm);
  v_claim.reason := 'shard_unavailable';
  return v_claim;
end
$$;
comment on function farebox._settle_claim(text, text, uuid, uuid, int, boolean) is 'Internal: whose a contested payment or code is in the end';

reset role;
