-- Purpose: kept payments, those first that were tried longest ago, a page at a time.
-- Parameters: p_limit, 1 to 1,000; p_reason (null = any); the last row of the page before; p_include_resolved.
-- Returns: the rows.  Raises: TK003.
set role farebox_owner;

create function farebox.list_unapplied_payments(p_limit int default 100, p_reason text default null,
  p_after_last_seen_at timestamptz default null, p_after_transaction_id text default null, p_include_resolved boolean default false)
returns setof farebox.unapplied_payments
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
-- As create_tickets: the plans must not hang on statistics.
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
begin
  perform farebox._check_limit(p_limit, 1000);
  return query
    select u.* from farebox.unapplied_payments as u
    where (p_include_resolved or u.resolved_at is null)
      and (p_reason is null or u.reason = p_reason)
      and u.last_seen_at >= coalesce(p_after_last_seen_at, '-infinity')
      and (p_after_last_seen_at is null
        or (u.last_seen_at, u.monime_transaction_id) > (p_after_last_seen_at, p_after_transaction_id collate "C"))
    order by u.last_seen_at, u.monime_transaction_id
    limit p_limit;
end
$$;

comment on function farebox.list_unapplied_payments(int, text, timestamptz, text, boolean) is
  'Unapplied payments, tried longest ago first, by keyset pages';

reset role;
