-- Purpose: requests that wait, oldest first, a page at a time; to search them by company, payment or state.
-- Parameters: p_limit, 1 to 1,000; p_company_id, p_transaction_id, p_state (ready, delayed, paused), null = any; the last id of the
--   page before.  Returns: the requests.  Raises: TK003.
set role farebox_owner;

create function farebox.list_queued_requests(p_limit int default 100, p_company_id uuid default null,
  p_transaction_id text default null, p_state text default null, p_after_queue_id bigint default null)
returns table (queue_id bigint, company_id uuid, monime_transaction_id text, state text, attempts int, reason text,
  enqueued_at timestamptz, ready_at timestamptz, request json)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
set jit = off
as $$
declare
  v_now timestamptz := farebox._now();
  v_transaction_id text := farebox._trimmed(p_transaction_id);
begin
  perform farebox._check_limit(p_limit, 1000);
  if p_state not in ('ready', 'delayed', 'paused') then
    raise exception using errcode = 'TK003', message = 'there is no such state', hint = 'pass ready, delayed or paused';
  end if;

  return query
    select l.id, p.company_id, p.transaction_id, l.state, l.attempts::int, l.reason, l.enqueued_at, l.ready_at, l.request
    from (
      select q.*,
        case when q.ready_at > v_now then 'delayed' when q.rank is null and q.ready_at is null then 'paused' else 'ready' end as state
      from farebox.ticket_queue as q
      where q.id > coalesce(p_after_queue_id, 0)
    ) as l
    cross join lateral farebox._queued_payment(l.request) as p
    where (p_company_id is null or l.company_id = p_company_id)
      and (p_state is null or l.state = p_state)
      -- An id is nearly always written without escapes: so only what holds it as it stands is read.
      and (v_transaction_id is null
        or (position(v_transaction_id in l.request::text) > 0 or position('\' in l.request::text) > 0)
          and p.transaction_id = v_transaction_id)
    order by l.id
    limit p_limit;
end
$$;

comment on function farebox.list_queued_requests(int, uuid, text, text, bigint) is
  'Queued requests that wait, oldest first, by keyset pages';

reset role;
