-- Purpose: the transaction records of the tickets in a batch's outcomes: writes those that are missing, of new tickets and at a replay.
-- Parameters: p_outcomes, in order; p_now.  Returns: the outcomes with transaction_recorded as it stands.
-- Raises: only what the caller should retry as a whole (class 40).  Locks and writes: transactions.
set role farebox_owner;

create function farebox._settle_records(p_outcomes farebox.ticket_outcome[], p_now timestamptz)
returns farebox.ticket_outcome[]
language plpgsql volatile security invoker
as $$
declare
  v_tickets farebox._ticket_request[];
  v_missing uuid[];
  v_recorded record;
begin
  begin
    select array_agg(farebox._record_of(t.*) order by t.id)
    into v_tickets
    from (select distinct o.ticket_id from unnest(p_outcomes) as o where o.ticket_id is not null) as o
    cross join lateral (select t.* from farebox.tickets as t where t.id = o.ticket_id offset 0) as t
    left join lateral (select x.ticket_id from farebox.transactions as x where x.ticket_id = o.ticket_id offset 0) as x on true
    where x.ticket_id is null;
    v_recorded := farebox._record_transactions(coalesce(v_tickets, '{}'), p_now);
    v_missing := v_recorded.missing;
  exception
    when transaction_rollback then
      raise;
    when others or assert_failure then  -- the records cannot even be read now: the tickets stand all the same
      v_missing := array(select o.ticket_id from unnest(p_outcomes) as o where o.ticket_id is not null);
  end;

  return (
    select array_agg(row(o.ordinal, o.monime_transaction_id, o.outcome, o.reason, o.ticket_id, o.existing_ticket_id, o.differing,
      o.ticket_id is not null and o.ticket_id <> all (v_missing))::farebox.ticket_outcome order by o.ordinal)
    from unnest(p_outcomes) as o
  );
end
$$;

comment on function farebox._settle_records(farebox.ticket_outcome[], timestamptz) is
  'Internal: writes the transaction records that the tickets of a batch lack';

reset role;
