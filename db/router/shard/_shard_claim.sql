-- Purpose: claims payments or codes for companies, on the shard where the registry has them. A claim that is there already stays.
-- Parameters: one element each (PL/Proxy splits arrays): p_at, ignored here; p_partitions, p_subjects, p_companies, arrays as text.
--   p_kind: p or c.  Returns: those that the company does not simply have: whose they are, the number of the claim, and whether an
--   unapplied payment of nobody, or of another company, waits here for this payment's ticket.
-- Raises: 55P03.  Locks and writes: own_partitions, claims in the order of the subject, in a transaction that ends with the call.
set role farebox_owner;

create or replace function farebox._shard_claim(
  p_at int[], p_kind text, p_partitions text[], p_subjects text[], p_companies text[])
returns table (subject text, asking uuid, company_id uuid, number int, is_open boolean)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
#variable_conflict use_column
declare
  v_subjects text[] := p_subjects[1]::text[];
  v_companies uuid[] := p_companies[1]::uuid[];
  v_new int;
  v_has_open boolean := p_kind = 'p' and exists (select from farebox.unapplied_payments as u where u.resolved_at is null);
begin
  perform farebox._require_partitions(p_partitions[1]::int[]);

  insert into farebox.claims (company_id, claimed_at, kind, subject)
  select c.company_id, farebox._now(), p_kind::"char", c.subject
  from unnest(v_subjects, v_companies) as c(subject, company_id)
  order by c.subject collate "C"
  on conflict (subject, kind) do nothing;
  get diagnostics v_new = row_count;
  if v_new = cardinality(v_subjects) and not v_has_open then
    return;
  end if;

  return query
    select a.subject, a.company_id, c.company_id, c.number, u.is_open is true
    from unnest(v_subjects, v_companies) as a(subject, company_id)
    cross join lateral (
      select c.company_id, c.number from farebox.claims as c where c.subject = a.subject collate "C" and c.kind = p_kind::"char" offset 0) as c
    left join lateral (
      select u.resolved_at is null and u.company_id is distinct from a.company_id as is_open
      from farebox.unapplied_payments as u where u.monime_transaction_id = a.subject collate "C" offset 0) as u on v_has_open
    where c.company_id <> a.company_id or c.number > 1 or u.is_open;
end
$$;

comment on function farebox._shard_claim(int[], text, text[], text[], text[]) is
  'For the router: claims payments or codes for companies; those that are another''s';

reset role;
