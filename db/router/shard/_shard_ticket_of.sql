-- Purpose: one payment: whose the registry says it is (on the shard of the payment), and its ticket (on the shard of that company).
-- Parameters: p_partition, ignored here; p_subject, the transaction id.
set role farebox_owner;

create or replace function farebox._shard_claimed_by(p_partition int, p_subject text)
returns setof uuid
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
set enable_seqscan = off
as $$
begin
  return query select c.company_id from farebox.claims as c where c.subject = p_subject collate "C" and c.kind = 'p';
end
$$;

comment on function farebox._shard_claimed_by(int, text) is 'For the router: the company of a payment, by the registry';

-- The same of many, for a mover: p_subjects, an array as text in one element.  Returns: those that are claimed.
create or replace function farebox._shard_owners(p_at int[], p_subjects text[])
returns table (subject text, company_id uuid)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
as $$
begin
  return query
    select c.subject, c.company_id
    from unnest(p_subjects[1]::text[]) as s(subject)
    cross join lateral (
      select c.subject, c.company_id from farebox.claims as c where c.subject = s.subject collate "C" and c.kind = 'p' offset 0) as c;
end
$$;

comment on function farebox._shard_owners(int[], text[]) is 'For the router: the companies of many payments, by the registry';

create or replace function farebox._shard_ticket_of(p_partition int, p_subject text)
returns setof uuid
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
set enable_seqscan = off
as $$
begin
  return query select t.id from farebox.tickets as t where t.monime_transaction_id = p_subject collate "C";
end
$$;

comment on function farebox._shard_ticket_of(int, text) is 'For the router: the ticket of a payment';

reset role;
