-- Purpose: the router's part of a batch for this shard becomes tickets.
-- Parameters: one element each: p_at, ignored here; p_partitions; p_ordinals of the requests in the whole batch; p_retaken, payments
--   that came back to a company of this shard: see _take_back; p_batch_ids, see _batch_id;
--   p_again, an earlier attempt's answer was lost: what it created is `created`; p_batches. All but the last are arrays or JSON as text.
-- Returns: the outcomes.  Raises: 55P03, and as create_tickets.
-- Locks: an advisory lock of the batch, before any other; then as create_tickets.
set role farebox_owner;

create or replace function farebox._shard_create_tickets(p_at int[], p_partitions text[], p_ordinals text[], p_retaken text[],
  p_batch_ids uuid[], p_again boolean[], p_batches text[])
returns setof farebox.ticket_outcome
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
declare
  v_ordinals int[] := p_ordinals[1]::int[];
  v_prefix text := left(p_batch_ids[1]::text, 32);
  v_again boolean := p_again[1];
begin
  -- The earlier attempt may still be at it: its tickets have the ids that ours would have, so its end is waited for before anything is
  -- read, or they would be taken for ours and their codes be charged twice.
  perform pg_advisory_xact_lock(hashtextextended(v_prefix, 0));
  perform farebox._require_partitions(p_partitions[1]::int[]);
  perform set_config('farebox.batch_id', p_batch_ids[1]::text, true);
  perform farebox._take_back('p', p_retaken[1]);

  return query
    select v_ordinals[o.ordinal], o.monime_transaction_id,
      case
        when v_again and o.outcome = 'duplicate' and o.ticket_id = (v_prefix || to_hex(4096 + o.ordinal))::uuid then 'created'
        else o.outcome
      end,
      o.reason, o.ticket_id, o.existing_ticket_id, o.differing, o.transaction_recorded
    from farebox.create_tickets(p_batches[1]::json) as o;
end
$$;

comment on function farebox._shard_create_tickets(int[], text[], text[], text[], uuid[], boolean[], text[]) is
  'For the router: its part of a batch becomes tickets';

reset role;
