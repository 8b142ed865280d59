-- Purpose: verify() of the router compares the registry with the tickets, a page at a time. These two look at the other side.
-- Parameters: one element each: p_at, ignored here; p_subjects, p_companies, arrays as text.  Returns: tickets whose payment is not
--   claimed by their company; claims of companies of this shard of which nothing is left: no ticket, no unapplied payment, no request.
set role farebox_owner;

create or replace function farebox._shard_unclaimed(p_at int[], p_subjects text[], p_companies text[])
returns table (subject text, company_id uuid, claimed_by uuid)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
as $$
begin
  return query
    select t.subject, t.company_id, c.company_id
    from unnest(p_subjects[1]::text[], p_companies[1]::uuid[]) as t(subject, company_id)
    left join lateral (
      select c.company_id from farebox.claims as c where c.subject = t.subject collate "C" and c.kind = 'p' offset 0) as c on true
    where c.company_id is distinct from t.company_id;
end
$$;

comment on function farebox._shard_unclaimed(int[], text[], text[]) is 'For the router: tickets whose payment is not claimed by their company';

create or replace function farebox._shard_unused(p_at int[], p_subjects text[], p_companies text[])
returns table (subject text, company_id uuid)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
set enable_seqscan = off
-- So that requests are looked for by their hash, whatever statistics say: a queue may be long, and so may the list.
set enable_nestloop = off
set plan_cache_mode = force_generic_plan
as $$
begin
  return query
    with claim as materialized (
      select c.subject, c.company_id
      from unnest(p_subjects[1]::text[], p_companies[1]::uuid[]) as c(subject, company_id)
      left join lateral (
        select t.company_id from farebox.tickets as t where t.monime_transaction_id = c.subject collate "C" offset 0) as t on true
      left join lateral (
        select true as is_kept from farebox.unapplied_payments as u where u.monime_transaction_id = c.subject collate "C" offset 0) as u on true
      where t.company_id is distinct from c.company_id and u.is_kept is not true
    ),
    queued as materialized (
      select q.company_id, (farebox._queued_payment(q.request)).transaction_id as subject
      from farebox.ticket_queue as q
      where q.company_id in (select c.company_id from claim as c)
    )
    select c.subject, c.company_id
    from claim as c
    where not exists (select from queued as q where q.company_id = c.company_id and q.subject = c.subject);
end
$$;

comment on function farebox._shard_unused(int[], text[], text[]) is 'For the router: claims of which nothing is left';

reset role;
