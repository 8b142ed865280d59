-- Purpose: what the queue gave up or came to no ticket and is kept nowhere else, longest not seen first, a page at a time.
-- Parameters: p_limit, 1 to 1,000; p_company_id, p_transaction_id, p_reason, null = any; the last row of the page before.
-- Returns: the requests; their key is what retry_queued_requests and drop_queued_requests take: queue:<id>, or payment:<id> for
--   those that are unapplied payments.  Raises: TK003.
set role farebox_owner;

create function farebox.list_dead_requests(p_limit int default 100, p_company_id uuid default null, p_transaction_id text default null,
  p_reason text default null, p_after_last_seen_at timestamptz default null, p_after_key text default null)
returns table (key text, company_id uuid, monime_transaction_id text, reason text, detail text, attempts int,
  first_seen_at timestamptz, last_seen_at timestamptz, request json)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
set jit = off
as $$
begin
  perform farebox._check_limit(p_limit, 1000);

  return query
    select l.*
    from (
      select 'queue:' || d.id as key, d.company_id, d.monime_transaction_id, d.reason, d.detail, d.times as attempts,
        d.first_seen_at, d.last_seen_at, d.request
      from farebox.ticket_queue_dead as d
      union all
      select 'payment:' || u.monime_transaction_id, u.company_id, u.monime_transaction_id, u.reason, null, u.attempts,
        u.first_seen_at, u.last_seen_at, u.request
      from farebox.unapplied_payments as u
      where u.resolved_at is null and farebox._is_given_up(u.reason)
    ) as l
    where (p_company_id is null or l.company_id = p_company_id)
      and (p_transaction_id is null or l.monime_transaction_id = farebox._trimmed(p_transaction_id) collate "C")
      and (p_reason is null or l.reason = p_reason)
      and l.last_seen_at >= coalesce(p_after_last_seen_at, '-infinity')
      and (p_after_last_seen_at is null or (l.last_seen_at, l.key collate "C") > (p_after_last_seen_at, p_after_key collate "C"))
    order by l.last_seen_at, l.key collate "C"
    limit p_limit;
end
$$;

comment on function farebox.list_dead_requests(int, uuid, text, text, timestamptz, text) is
  'Queued requests that were given up or came to no ticket, by keyset pages';

reset role;
