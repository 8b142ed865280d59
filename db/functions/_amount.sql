-- Purpose: the amount rule: a JSON number or numeric string goes by its value (5000, 5000.0 and 5e3 are one amount).
-- Parameters: p_text, the number as text, may be null.  Returns: minor units, 1 to 10^12, or null when it is no such integer.
set role farebox_owner;

create function farebox._amount(p_text text)
returns bigint
language sql immutable security invoker parallel safe
as $$
  select case
    when p_text collate "C" ~ '^[1-9][0-9]*$' and length(p_text) <= 12 then p_text::bigint
    else (farebox._number(p_text, 1, 1000000000000, 0))::bigint
  end
$$;

comment on function farebox._amount(text) is 'An amount in minor units, null when it is no integer from 1 to 10^12';

reset role;
