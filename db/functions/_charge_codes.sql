-- Purpose: counts the tickets just written on their codes; the use that reaches total_tickets sets `expired` in the same update.
-- Parameters: p_requests; p_all_created, every candidate became a ticket.
-- Returns: false when a code, now that it is locked, is not as it was when its uses were given out: then all must be taken back.
-- Locks and writes: payment_codes (by id), one update a code.
set role farebox_owner;

create function farebox._charge_codes(p_requests farebox._ticket_request[], p_all_created boolean)
returns boolean
language plpgsql volatile security invoker
as $$
declare
  v_codes uuid[];
  v_uses int[];
  v_is_spent boolean[];  -- somebody was told that it is exhausted: then these must be its last uses
  v_now timestamptz;
  v_charged int;
begin
  select
    array_agg(c.payment_code_id order by c.payment_code_id), array_agg(c.uses order by c.payment_code_id),
    array_agg(c.is_spent order by c.payment_code_id)
  into v_codes, v_uses, v_is_spent
  from (
    select r.payment_code_id, count(*) filter (where r.reason is null)::int as uses, bool_or(r.reason = 'code_exhausted') as is_spent
    from unnest(p_requests) as r
    where r.payment_code_id is not null and (r.reason = 'code_exhausted' or r.reason is null
      -- Where not every candidate became a ticket: repetitions, and what was lost to another caller.
      and (p_all_created or (select t.id from farebox.tickets as t where t.id = r.ticket_id) is not null))
    group by r.payment_code_id
  ) as c
  where c.uses > 0;
  if v_codes is null then
    return true;
  end if;

  perform from farebox.payment_codes as k where k.id = any (v_codes) order by k.id for no key update;
  v_now := farebox._now();
  -- No join, whose plan would hang on statistics: the array of codes is in order, and width_bucket finds a code's place in it.
  update farebox.payment_codes as k
  set
    used_tickets = k.used_tickets + v_uses[width_bucket(k.id, v_codes)],
    status = case when k.used_tickets + v_uses[width_bucket(k.id, v_codes)] = k.total_tickets then 'expired' else k.status end
  where k.id = any (v_codes)
    and farebox._code_refusal(k.status, k.used_tickets, k.total_tickets, k.expires_at, v_now) is null
    and case when v_is_spent[width_bucket(k.id, v_codes)]
      then v_uses[width_bucket(k.id, v_codes)] = k.total_tickets - k.used_tickets
      else v_uses[width_bucket(k.id, v_codes)] <= k.total_tickets - k.used_tickets end;
  get diagnostics v_charged = row_count;
  return v_charged = cardinality(v_codes);
end
$$;

comment on function farebox._charge_codes(farebox._ticket_request[], boolean) is
  'Internal: counts the tickets just written on their payment codes, if these are still as they were';

reset role;
