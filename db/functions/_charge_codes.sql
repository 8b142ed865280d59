-- Purpose: counts the tickets just written on their codes; the use that reaches total_tickets sets `expired` in the same update.
-- Parameters: p_codes, by id (null: none), and p_uses of each; p_is_spent, somebody was told that it is exhausted: then these must be
--   its last uses (null: nobody was).
-- Returns: false when a code, now that it is locked, is not as it was when its uses were given out: then all must be taken back.
-- Locks and writes: payment_codes (by id), one update a code.
set role farebox_owner;

create function farebox._charge_codes(p_codes uuid[], p_uses int[], p_is_spent boolean[])
returns boolean
language plpgsql volatile security invoker
as $$
declare
  v_now timestamptz;
  v_charged int;
begin
  if p_codes is null then
    return true;
  end if;

  perform from farebox.payment_codes as k where k.id = any (p_codes) order by k.id for no key update;
  v_now := farebox._now();
  -- No join, whose plan would hang on statistics: the array of codes is in order, and width_bucket finds a code's place in it.
  update farebox.payment_codes as k
  set
    used_tickets = k.used_tickets + p_uses[width_bucket(k.id, p_codes)],
    status = case when k.used_tickets + p_uses[width_bucket(k.id, p_codes)] = k.total_tickets then 'expired' else k.status end
  where k.id = any (p_codes)
    and farebox._code_refusal(k.status, k.used_tickets, k.total_tickets, k.expires_at, v_now) is null
    and case when p_is_spent[width_bucket(k.id, p_codes)]
      then p_uses[width_bucket(k.id, p_codes)] = k.total_tickets - k.used_tickets
      else p_uses[width_bucket(k.id, p_codes)] <= k.total_tickets - k.used_tickets end;
  get diagnostics v_charged = row_count;
  return v_charged = cardinality(p_codes);
end
$$;

comment on function farebox._charge_codes(uuid[], int[], boolean[]) is
  'Internal: counts the tickets just written on their payment codes, if these are still as they were';

reset role;
