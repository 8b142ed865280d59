-- Purpose: the requests that apply_unapplied_payments tries next on this shard.
-- Parameters: p_limit, p_reason as there.  Returns: them.
set role farebox_owner;

create or replace function farebox._shard_open_payments(p_limit int, p_reason text)
returns table (last_seen_at timestamptz, monime_transaction_id text, request json)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
set enable_seqscan = off
set jit = off
as $$
begin
  return query
    select u.last_seen_at, u.monime_transaction_id, u.request
    from farebox.unapplied_payments as u
    where u.resolved_at is null and (p_reason is null or u.reason = p_reason)
    order by u.last_seen_at, u.monime_transaction_id
    limit p_limit;
end
$$;

comment on function farebox._shard_open_payments(int, text) is 'For the router: what apply_unapplied_payments tries next';

reset role;
