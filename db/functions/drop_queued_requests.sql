-- Purpose: removes requests for good: waiting ones, dead ones, and payments the queue gave up.
-- Parameters: p_keys, at most 10,000: queue:<id> or payment:<id>, as list_dead_requests shows them.
-- Returns: what was removed, whole, for the caller to keep: of money nothing vanishes without a trace.
-- Raises: TK002, TK003.  Locks and writes: ticket_queue (skipping what is being processed: that is no longer waiting),
--   unapplied_payments (by payment), ticket_queue_dead (by id).
set role farebox_owner;

create function farebox.drop_queued_requests(p_keys text[])
returns table (key text, company_id uuid, monime_transaction_id text, reason text, request json)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
declare
  v_ids bigint[];
  v_payments text[];
begin
  select i.queue_ids, i.transaction_ids into v_ids, v_payments from farebox._read_queue_keys(p_keys) as i;

  return query
    with waiting as (
      select q.id from farebox.ticket_queue as q where q.id = any (v_ids) order by q.id for update skip locked
    )
    delete from farebox.ticket_queue as q
    using waiting as w
    where q.id = w.id
    returning 'queue:' || q.id, (farebox._queued_payment(q.request)).company_id, (farebox._queued_payment(q.request)).transaction_id,
      q.reason, q.request;
  return query
    with given_up as (
      select u.monime_transaction_id from farebox.unapplied_payments as u
      where u.resolved_at is null and farebox._is_given_up(u.reason) and u.monime_transaction_id = any (v_payments)
      order by u.monime_transaction_id
      for update
    )
    delete from farebox.unapplied_payments as u
    using given_up as g
    where u.monime_transaction_id = g.monime_transaction_id
    returning 'payment:' || u.monime_transaction_id, u.company_id, u.monime_transaction_id, u.reason, u.request;
  return query
    with dead as (
      select d.id from farebox.ticket_queue_dead as d where d.id = any (v_ids) order by d.id for update
    )
    delete from farebox.ticket_queue_dead as d
    using dead as x
    where d.id = x.id
    returning 'queue:' || d.id, d.company_id, d.monime_transaction_id, d.reason, d.request;
end
$$;

comment on function farebox.drop_queued_requests(text[]) is
  'Removes queued requests for good, waiting or dead; returns what was removed';

reset role;
