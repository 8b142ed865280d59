-- Purpose: what became of queued requests of this shard.
-- Parameters: one element each: p_at, ignored here; p_ordinals, p_queue_ids as text; p_batches.  Returns: as queued_outcomes.
set role farebox_owner;

create or replace function farebox._shard_queued_outcomes(p_at int[], p_ordinals text[], p_queue_ids text[], p_batches text[])
returns setof farebox.ticket_outcome
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
declare
  v_ordinals int[] := p_ordinals[1]::int[];
begin
  return query
    select v_ordinals[o.ordinal], o.monime_transaction_id, o.outcome,
      -- What another company has bought is settled without a trace here but this.
      case
        when o.reason = 'dropped' and exists (
          select
          from farebox._queued_payment(p_batches[1]::json -> (o.ordinal - 1)) as q
          join farebox.foreign_subjects as f on f.subject = q.transaction_id and f.kind = 'p' and f.company_id = q.company_id)
        then 'transaction_id_unavailable'
        else o.reason
      end,
      o.ticket_id, o.existing_ticket_id, o.differing, o.transaction_recorded
    from farebox.queued_outcomes(p_queue_ids[1]::bigint[], p_batches[1]::json) as o;
end
$$;

comment on function farebox._shard_queued_outcomes(int[], text[], text[], text[]) is
  'For the router: what became of queued requests';

reset role;
