-- Purpose: the transaction records of the tickets in a batch's outcomes that have none yet: new tickets, and old ones at a replay.
-- Parameters: p_outcomes, in order; p_now; p_write, false when writing them has just failed and only the truth is wanted.
-- Returns: the outcomes with transaction_recorded as it stands.  Locks and writes: transactions.
set role farebox_owner;

create function farebox._repair_records(p_outcomes farebox.ticket_outcome[], p_now timestamptz, p_write boolean)
returns farebox.ticket_outcome[]
language plpgsql volatile security invoker
as $$
declare
  v_missing farebox._ticket_request[];
  v_all boolean := false;
begin
  if p_write then
    select array_agg(farebox._record_of(t.*) order by t.id)
    into v_missing
    from (select distinct o.ticket_id from unnest(p_outcomes) as o where o.ticket_id is not null and not o.transaction_recorded) as o
    cross join lateral (select t.* from farebox.tickets as t where t.id = o.ticket_id offset 0) as t;
    select r.all_stand into v_all from farebox._record_transactions(v_missing, p_now) as r;
  end if;

  return (
    select array_agg(row(o.ordinal, o.monime_transaction_id, o.outcome, o.reason, o.ticket_id, o.existing_ticket_id, o.differing,
      o.ticket_id is not null and (v_all or o.transaction_recorded or x.ticket_id is not null))::farebox.ticket_outcome
      order by o.ordinal)
    from unnest(p_outcomes) as o
    left join lateral (
      select x.ticket_id from farebox.transactions as x where not v_all and x.ticket_id = o.ticket_id offset 0) as x on true
  );
end
$$;

comment on function farebox._repair_records(farebox.ticket_outcome[], timestamptz, boolean) is
  'Internal: writes the transaction records that are missing among the tickets of a batch';

reset role;
