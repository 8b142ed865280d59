-- Purpose: queued requests that were refused because their company had given the payment up. Whoever asked for it may have made nothing
--   of it, so the router asks for their tickets itself (_retake_refused), and tells what came of it.
-- Parameters: p_at, ignored here; p_id, of such a request; p_detail, why it stays dead; null: it does not.
-- Returns: those that were not asked for yet.  Locks and writes: ticket_queue_dead (one row).
set role farebox_owner;

create or replace function farebox._shard_refused_requests(p_at int)
returns table (id bigint, request json)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
begin
  return query
    select d.id, d.request
    from farebox.ticket_queue_dead as d
    where d.reason = 'transaction_id_unavailable' and d.detail is null
      and exists (
        select from farebox.foreign_subjects as f
        where f.subject = d.monime_transaction_id and f.kind = 'p' and f.company_id = d.company_id)
    order by d.last_seen_at, d.id
    limit 100;
end
$$;

comment on function farebox._shard_refused_requests(int) is
  'For the router: queued requests that were refused because their company had given the payment up';

create or replace function farebox._shard_settle_refused(p_at int, p_id bigint, p_detail text)
returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
begin
  if p_detail is null then
    delete from farebox.ticket_queue_dead as d
    where d.id = p_id and d.reason = 'transaction_id_unavailable' and d.detail is null;
  else
    update farebox.ticket_queue_dead as d
    set detail = p_detail
    where d.id = p_id and d.reason = 'transaction_id_unavailable' and d.detail is null;
  end if;
end
$$;

comment on function farebox._shard_settle_refused(int, bigint, text) is
  'For the router: what came of a queued request that was refused';

reset role;
