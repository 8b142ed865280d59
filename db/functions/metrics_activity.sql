-- Purpose: who sells now, for people who watch: the companies and payment codes of the newest tickets, and who waits in the queue.
-- Parameters: p_tickets, how many of the newest tickets to look at, 1 to 10,000.
-- Returns: kind (company, code), its id and name; tickets of the sample; a code's used and total uses; a company's queued requests
--   and the age of its oldest. The most tickets first.  Raises: TK003.
set role farebox_owner;

create function farebox.metrics_activity(p_tickets int default 1000)
returns table (kind text, id uuid, name text, tickets bigint, used int, total int, queued bigint, oldest_age interval)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
-- Whoever watches must not stand in line: a table that is locked costs this group of metrics, not the whole scrape.
set lock_timeout = '1s'
as $$
begin
  perform farebox._check_limit(p_tickets, 10000);

  return query
    with newest as materialized (
      -- Ids are in order of time.
      select t.company_id, t.payment_code_id from farebox.tickets as t order by t.id desc limit p_tickets
    ),
    sellers as (select n.company_id, count(*) as tickets from newest as n group by n.company_id),
    waiting as (
      select q.company_id, count(*) as requests, min(q.enqueued_at) as oldest_at from farebox.ticket_queue as q group by q.company_id
    )
    (
      select 'company', coalesce(s.company_id, w.company_id), coalesce(c.name, 'unknown'), coalesce(s.tickets, 0), null::int, null::int,
        coalesce(w.requests, 0), farebox._now() - w.oldest_at
      from sellers as s
      full join waiting as w on w.company_id = s.company_id
      left join farebox.companies as c on c.id = coalesce(s.company_id, w.company_id)

      union all
      select 'code', k.id, k.code, u.tickets, k.used_tickets, k.total_tickets, null, null
      from (select n.payment_code_id, count(*) as tickets from newest as n group by n.payment_code_id) as u
      join farebox.payment_codes as k on k.id = u.payment_code_id
    )
    order by 1, 4 desc, 3;
end
$$;

comment on function farebox.metrics_activity(int) is 'The companies and payment codes of the newest tickets, and who waits in the queue';

reset role;
