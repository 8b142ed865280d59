-- Purpose: marks the codes whose time is over. They buy nothing more from that time on anyway; this keeps lists and counts honest.
-- Parameters: p_limit, 1 to 10,000.  Returns: how many it marked; call again while that is p_limit.
-- Raises: TK003.  Locks and writes: payment_codes; those in use right now are left to the next call.
set role farebox_owner;

create function farebox.expire_payment_codes(p_limit int default 1000)
returns int
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
-- As create_tickets: the plans must not hang on statistics.
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
declare
  v_codes uuid[];
  v_now timestamptz := farebox._now();
begin
  perform farebox._check_limit(p_limit, 10000);

  v_codes := array(
    select k.id from farebox.payment_codes as k
    where k.status = 'active' and k.expires_at <= v_now
    order by k.id
    limit p_limit
    for no key update skip locked);
  update farebox.payment_codes as k set status = 'expired' where k.id = any (v_codes);
  return cardinality(v_codes);
end
$$;

comment on function farebox.expire_payment_codes(int) is 'Marks active payment codes whose time is over as expired; how many';

reset role;
