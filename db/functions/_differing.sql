-- Purpose: what a request differs in from the ticket its payment has, in the contract's order.
-- Parameters: the ticket's fields, then the request's; a malformed field is null and differs.  Returns: the names; empty when it is a replay.
set role farebox_owner;

create function farebox._differing(
  p_route_id uuid, p_phone text, p_code text, p_otp text, p_amount bigint,
  p_new_route_id uuid, p_new_phone text, p_new_code text, p_new_otp text, p_new_amount bigint)
returns text[]
language sql immutable security invoker parallel safe
as $$
  select case
    when p_route_id = p_new_route_id and p_phone = p_new_phone and p_otp = p_new_otp and p_amount = p_new_amount
      and p_code is not distinct from p_new_code
      then '{}'::text[]
    else array_remove(array[
      case when p_route_id is distinct from p_new_route_id then 'route_id' end,
      case when p_phone is distinct from p_new_phone then 'passenger_phone' end,
      case when p_code is distinct from p_new_code then 'payment_code' end,
      case when p_otp is distinct from p_new_otp then 'monime_otp' end,
      case when p_amount is distinct from p_new_amount then 'amount' end], null)
  end
$$;

comment on function farebox._differing(uuid, text, text, text, bigint, uuid, text, text, text, bigint) is
  'Internal: the fields a request differs in from its payment''s ticket, in order';

reset role;
