-- Purpose: the commission rule, in one place.
-- Parameters: p_amount in minor units, p_rate 0 to 1.  Returns: amount x rate, rounded half away from zero.
set role farebox_owner;

create function farebox._commission(p_amount bigint, p_rate numeric)
returns bigint
language sql immutable security invoker parallel safe
as $$ select round(p_amount * p_rate)::bigint $$;

comment on function farebox._commission(bigint, numeric) is 'The platform''s share of an amount, rounded half away from zero';

reset role;
