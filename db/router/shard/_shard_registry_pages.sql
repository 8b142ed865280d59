-- Purpose: verify() of the router compares the registry with the tickets, a page at a time. These two return the pages.
-- Parameters: p_partition, ignored here; p_after, the last subject of the page before.  Returns: payments with their ticket; claims of
--   payments that are older than a minute (younger ones may be on their way to a ticket) and are somebody's.
set role farebox_owner;

create or replace function farebox._shard_ticket_page(p_partition int, p_after text)
returns table (subject text, company_id uuid, ticket_id uuid)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
set enable_seqscan = off
as $$
begin
  return query
    select t.monime_transaction_id, t.company_id, t.id
    from farebox.tickets as t
    where t.monime_transaction_id > p_after collate "C" and farebox._lives_here(t.company_id)
    order by t.monime_transaction_id
    limit 10000;
end
$$;

comment on function farebox._shard_ticket_page(int, text) is 'For the router: payments with their ticket, a page';

create or replace function farebox._shard_claim_page(p_partition int, p_after text)
returns table (subject text, company_id uuid, is_young boolean)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
set enable_seqscan = off
as $$
begin
  return query
    select c.subject, c.company_id,
      c.claimed_at > farebox._now() - interval '1 minute' or c.company_id = '00000000-0000-0000-0000-000000000000'
    from farebox.claims as c
    where c.kind = 'p' and c.subject > p_after collate "C"
      and exists (select from farebox.own_partitions as o where o.partition = farebox._partition_of(c.subject))
    order by c.subject
    limit 10000;
end
$$;

comment on function farebox._shard_claim_page(int, text) is 'For the router: claims, a page';

reset role;
