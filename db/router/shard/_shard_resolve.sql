-- Purpose: resolves a kept payment whose ticket is on another shard.
-- Parameters: p_partition, ignored here; p_subject, the transaction id; p_ticket_id.  Returns: whether a row was resolved.
set role farebox_owner;

create or replace function farebox._shard_resolve(p_partition int, p_subject text, p_ticket_id uuid)
returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
-- A mover has the row, and waits for calls such as the one that waits here: apply_unapplied_payments does it later.
set lock_timeout = '1s'
as $$
begin
  -- The company that asked and did not get the payment must not read whose it is.
  update farebox.unapplied_payments as u
  set resolved_at = farebox._now(), ticket_id = p_ticket_id, company_id = null
  where u.monime_transaction_id = p_subject collate "C" and u.resolved_at is null;
  return found;
end
$$;

comment on function farebox._shard_resolve(int, text, uuid) is 'For the router: resolves a kept payment whose ticket is on another shard';

reset role;
