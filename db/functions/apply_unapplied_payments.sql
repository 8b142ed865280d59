-- Purpose: tries kept payments again, those first that were tried longest ago.
-- Parameters: p_limit, 1 to 10,000; p_reason, only payments rejected for it (null = any).  Returns: their outcomes, as create_tickets.
-- Raises: TK003; as create_tickets.  Locks and writes: as create_tickets, which also resolves the rows. No row is locked before,
--   or the one order of locks would be broken; two callers at once may try the same payment, which is harmless.
set role farebox_owner;

create function farebox.apply_unapplied_payments(p_limit int default 1000, p_reason text default null)
returns setof farebox.ticket_outcome
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
-- As create_tickets: the plans must not hang on statistics.
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
declare
  v_batch json;
begin
  perform farebox._check_limit(p_limit, 10000);

  select json_agg(u.request order by u.last_seen_at, u.monime_transaction_id)
  into v_batch
  from (
    select u.request, u.last_seen_at, u.monime_transaction_id
    from farebox.unapplied_payments as u
    where u.resolved_at is null and (p_reason is null or u.reason = p_reason)
    order by u.last_seen_at, u.monime_transaction_id
    limit p_limit
  ) as u;
  if v_batch is not null then
    return query select * from farebox.create_tickets(v_batch);
  end if;
end
$$;

comment on function farebox.apply_unapplied_payments(int, text) is
  'Tries unapplied payments again; a success resolves the row';

reset role;
