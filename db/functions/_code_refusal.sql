-- Purpose: why a code cannot be charged now, in the contract's order.
-- Parameters: the code's state and the time.  Returns: code_cancelled, code_expired, code_exhausted, or null when it can.
set role farebox_owner;

create function farebox._code_refusal(p_status text, p_used int, p_total int, p_expires_at timestamptz, p_now timestamptz)
returns text
language sql immutable security invoker parallel safe
as $$
  select case
    when p_status = 'cancelled' then 'code_cancelled'
    when p_expires_at <= p_now then 'code_expired'
    when p_status = 'expired' and p_used < p_total then 'code_expired'
    when p_used >= p_total then 'code_exhausted'
  end
$$;

comment on function farebox._code_refusal(text, int, int, timestamptz, timestamptz) is
  'Why a payment code cannot be charged, null when it can';

reset role;
