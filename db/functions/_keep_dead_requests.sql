-- Purpose: keeps queued requests that came to no ticket and have no place in unapplied_payments.
-- Parameters: p_requests; of each its reason and detail, in order; p_now.  Returns: nothing.
-- Locks and writes: ticket_queue_dead (by fingerprint and reason); the last lock a worker takes.
set role farebox_owner;

create function farebox._keep_dead_requests(
  p_requests farebox.ticket_queue[], p_reasons text[], p_details text[], p_now timestamptz)
returns void
language plpgsql volatile security invoker
as $$
begin
  insert into farebox.ticket_queue_dead as d (id, company_id, monime_transaction_id, request, reason, detail, times,
    first_seen_at, last_seen_at, fingerprint)
  select
    k.id, p.company_id, p.transaction_id, k.request, k.reason, k.detail, k.times, p_now, p_now, k.fingerprint
  from (
    select distinct on (f.fingerprint, r.reason)
      r.id, r.request, r.reason, r.detail, f.fingerprint, count(*) over (partition by f.fingerprint, r.reason)::int as times
    from rows from (unnest(p_requests), unnest(p_reasons), unnest(p_details)) as r(
      id, rank, enqueued_at, ready_at, company_id, attempts, together, earlier_reason, request, reason, detail)
    cross join lateral (select sha256(convert_to(r.request::text, 'UTF8')) as fingerprint) as f
    order by f.fingerprint, r.reason, r.id
  ) as k
  cross join lateral farebox._queued_payment(k.request) as p
  order by k.fingerprint, k.reason
  on conflict (fingerprint, reason) do update set
    times = d.times + excluded.times,
    detail = excluded.detail,
    last_seen_at = excluded.last_seen_at;
end
$$;

comment on function farebox._keep_dead_requests(farebox.ticket_queue[], text[], text[], timestamptz) is
  'Internal: keeps queued requests that came to no ticket and have no other place';

reset role;
