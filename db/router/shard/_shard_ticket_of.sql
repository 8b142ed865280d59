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
