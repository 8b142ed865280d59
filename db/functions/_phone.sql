-- Purpose: the phone rule: spaces, dots, dashes and parentheses leave the number; then E.164.
-- Parameters: p_text, may be null.  Returns: + and 7 to 15 digits without a leading 0, or null when it is no such number.
set role farebox_owner;

create function farebox._phone(p_text text)
returns text
language sql immutable security invoker parallel safe
as $$
  select case
    when p_text collate "C" ~ '^\+[1-9][0-9]+$' and length(p_text) between 8 and 16 then p_text
    when translate(farebox._trimmed(p_text), ' .-()', '') collate "C" ~ '^\+[1-9][0-9]{6,14}$'
      then translate(farebox._trimmed(p_text), ' .-()', '')
  end
$$;

comment on function farebox._phone(text) is 'A phone number normalised to E.164, null when it is none';

reset role;
