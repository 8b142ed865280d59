-- Purpose: keeps queued requests that came to no ticket and have no place in unapplied_payments.
-- Parameters: p_queue_ids; of each its reason and detail; p_now.  Returns: nothing.
-- Locks and writes: ticket_queue_dead (by fingerprint and reason); the last lock a worker takes.
set role farebox_owner;

create function farebox._keep_dead_requests(p_queue_ids bigint[], p_reasons text[], p_details text[], p_now timestamptz)
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
      q.id, q.request, r.reason, r.detail, f.fingerprint, count(*) over (partition by f.fingerprint, r.reason)::int as times
    from unnest(p_queue_ids, p_reasons, p_details) as r(id, reason, detail)
    cross join lateral (select q.* from farebox.ticket_queue as q where q.id = r.id offset 0) as q
    cross join lateral (select sha256(convert_to(q.request::text, 'UTF8')) as fingerprint) as f
    order by f.fingerprint, r.reason, q.id
  ) as k
  cross join lateral farebox._queued_payment(k.request) as p
  order by k.fingerprint, k.reason
  on conflict (fingerprint, reason) do update set
    times = d.times + excluded.times,
    detail = excluded.detail,
    last_seen_at = excluded.last_seen_at;
end
$$;

comment on function farebox._keep_dead_requests(bigint[], text[], text[], timestamptz) is
  'Internal: keeps queued requests that came to no ticket and have no other place';

reset role;
