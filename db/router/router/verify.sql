-- Purpose: as db/functions/verify.sql, of each shard, and of the registry against the tickets of all. Safe under load; a shard's part is of
--   one snapshot.
-- Returns: also shard_answers (nothing of it was checked), payment_is_claimed (a ticket without a claim of its company), claim_is_used (a claim,
--   older than a minute, of which nothing came: the same company's retry completes it, another's takes it over).
set role farebox_owner;

create or replace function farebox.verify()
returns setof farebox.violation
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
declare
  v_has_registry boolean := (select s.has_registry from farebox.sharding as s);
  v_shard record;
  v_living int[] := '{}';
begin
  for v_shard in select distinct s.name, p.at from farebox.partitions as p join farebox.shards as s on s.shard = p.shard order by p.at loop
    begin
      return query
        select v.invariant, v.subject, format('%s (shard %s)', v.detail, v_shard.name)
        from farebox._at_verify(v_shard.at) as v
        where not (v.invariant = 'resolved_payment_has_ticket' and v_has_registry
          and farebox._is_resolved_elsewhere(substring(v.subject from 9), v.detail));
      v_living := v_living || v_shard.at;
    exception when others or query_canceled then
      perform farebox._skip_lost_shard(sqlstate, sqlerrm);
      return query select 'shard_answers', 'shard ' || v_shard.name, 'it does not: nothing of it was checked';
    end;
  end loop;
  if v_has_registry then
    begin
      return query select r.* from farebox._verify_registry(v_living) as r;
    exception when others or query_canceled then
      perform farebox._skip_lost_shard(sqlstate, sqlerrm);
      return query select 'shard_answers', 'registry', 'a shard was lost meanwhile: not all of it was compared';
    end;
  end if;
end
$$;

-- Whether a kept payment became the ticket of another shard's company; nobody knows while that shard is lost, which is told by itself.
create or replace function farebox._is_resolved_elsewhere(p_payment text, p_detail text)
returns boolean
language plpgsql stable security invoker
as $$
begin
  return starts_with(p_detail, format('resolved by ticket %s,', farebox._ticket_of(p_payment)));
exception when others or query_canceled then
  perform farebox._skip_lost_shard(sqlstate, sqlerrm);
  return true;
end
$$;
comment on function farebox._is_resolved_elsewhere(text, text) is
  'Internal: whether a kept payment became the ticket of another shard''s company';

create or replace function farebox._verify_registry(p_living int[])
returns setof farebox.violation
language plpgsql stable security invoker
as $$
declare
  v_ats int[] := (select array_agg(p.at order by p.partition) from farebox.partitions as p);
  v_at int;
  v_after text;
  v_page record;
begin
  foreach v_at in array p_living loop
    -- The tickets of each shard, a page at a time: each payment is claimed by the ticket's company.
    v_after := '';
    loop
      select max(g.last) as last, array_agg(g.at) filter (where g.at = any (p_living)) as ats,
        array_agg(g.subjects) filter (where g.at = any (p_living)) as subjects,
        array_agg(g.companies) filter (where g.at = any (p_living)) as companies
      into v_page
      from (
        select v_ats[farebox._partition_of(t.subject) + 1] as at, max(t.subject collate "C") as last,
          array_agg(t.subject)::text as subjects, array_agg(t.company_id)::text as companies
        from farebox._at_ticket_page(v_at, v_after) as t
        group by 1) as g;
      exit when v_page.last is null;
      if v_page.ats is not null then
        return query
          select 'payment_is_claimed', 'payment ' || u.subject,
            format('has a ticket of company %s, but is %s', u.company_id, coalesce('claimed by ' || u.claimed_by, 'not claimed'))
          from farebox._at_unclaimed(v_page.ats, v_page.subjects, v_page.companies) as u;
      end if;
      v_after := v_page.last;
    end loop;

    -- The claims of each shard.
    v_after := '';
    loop
      select max(g.last) as last, array_agg(g.at) filter (where g.at = any (p_living)) as ats,
        array_agg(g.subjects) filter (where g.at = any (p_living)) as subjects,
        array_agg(g.companies) filter (where g.at = any (p_living)) as companies
      into v_page
      from (
        select v_ats[farebox._partition_of(c.company_id::text) + 1] as at, max(c.subject collate "C") as last,
          coalesce(array_agg(c.subject) filter (where not c.is_young), '{}')::text as subjects,
          coalesce(array_agg(c.company_id) filter (where not c.is_young), '{}')::text as companies
        from farebox._at_claim_page(v_at, v_after) as c
        group by 1) as g;
      exit when v_page.last is null;
      if v_page.ats is not null then
        return query
          select 'claim_is_used', 'payment ' || u.subject, format('claimed by company %s, and nothing came of it', u.company_id)
          from farebox._at_unused(v_page.ats, v_page.subjects, v_page.companies) as u;
      end if;
      v_after := v_page.last;
    end loop;
  end loop;
end
$$;
comment on function farebox._verify_registry(int[]) is 'Internal: compares the registry with the tickets of all shards';

reset role;
