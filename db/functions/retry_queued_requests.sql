-- Purpose: has requests tried again now: those in backoff, dead ones, and unapplied payments, whether the queue gave them up or a rule
--   rejected them.
-- Parameters: p_keys, at most 10,000: queue:<id> or payment:<id>, as list_dead_requests shows them.
-- Returns: for each, in order, its queue id from now on; null when there is no such request. Its attempts count from the start.
-- Raises: TK002, TK003.  Locks and writes: an advisory lock of operators, ticket_queue, ticket_queue_dead (by id). An unapplied
--   payment stays until it has its ticket.
set role farebox_owner;

create function farebox.retry_queued_requests(p_keys text[])
returns table (key text, queue_id bigint)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
declare
  v_ids bigint[];
  v_payments text[];
  v_keys text[];
  v_batch json;
  v_new_ids bigint[];
begin
  select i.queue_ids, i.transaction_ids into v_ids, v_payments from farebox._read_queue_keys(p_keys) as i;

  -- One operator at a time: those who retry and those who pause or resume lock the same requests and pauses, each in an order of its own.
  perform pg_advisory_xact_lock('farebox.ticket_queue'::regclass::oid::int, 2);
  perform from farebox.ticket_queue as q where q.id = any (v_ids) order by q.id for update;
  update farebox.ticket_queue as q
  set ready_at = case when q.ready_at is not null then farebox._now() end, attempts = 0, reason = null
  where q.id = any (v_ids);

  perform from farebox.ticket_queue_dead as d where d.id = any (v_ids) order by d.id for update;
  with gone as (
    delete from farebox.ticket_queue_dead as d where d.id = any (v_ids) returning 'queue:' || d.id as key, d.request
  ),
  again as (
    select g.key, g.request from gone as g
    union all
    select 'payment:' || u.monime_transaction_id, u.request
    from farebox.unapplied_payments as u
    where u.resolved_at is null and u.monime_transaction_id = any (v_payments)
  )
  select array_agg(a.key order by a.key), json_agg(a.request order by a.key) into v_keys, v_batch from again as a;
  if v_batch is not null then
    v_new_ids := array(select e.queue_id from farebox.enqueue_tickets(v_batch) as e order by e.ordinal);
  end if;
  perform farebox._wake_workers();

  return query
    select k.key, coalesce(q.id, n.id)
    from unnest(p_keys) with ordinality as k(key, ordinal)
    left join farebox.ticket_queue as q on 'queue:' || q.id = k.key and q.id = any (v_ids)
    left join unnest(v_keys, v_new_ids) as n(key, id) on n.key = k.key
    order by k.ordinal;
end
$$;

comment on function farebox.retry_queued_requests(text[]) is 'Has queued requests in backoff and dead ones tried again now';

reset role;
