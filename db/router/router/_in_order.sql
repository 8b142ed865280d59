-- Purpose: the outcomes of a batch as they are returned: in order, and in characters that the caller's session has. (The shards answer in the
--   router's encoding.)
-- Parameters: p_outcomes.  Returns: the outcomes.
-- Without settings of its own, so that it is inlined.
set role farebox_owner;

create or replace function farebox._in_order(p_outcomes farebox.ticket_outcome[])
returns setof farebox.ticket_outcome
language sql stable security invoker
as $$
  select o.ordinal,
    -- As in _parse_batch.
    case when (select pg_client_encoding() in ('UTF8', 'SQL_ASCII')) then o.monime_transaction_id
      else farebox._shown(o.monime_transaction_id) end,
    o.outcome, o.reason, o.ticket_id, o.existing_ticket_id, o.differing, o.transaction_recorded
  from unnest(p_outcomes) as o
  order by o.ordinal
$$;

comment on function farebox._in_order(farebox.ticket_outcome[]) is 'Internal: the outcomes of a batch as they are returned';

reset role;
