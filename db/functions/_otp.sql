-- Purpose: the rule for one-time passwords.
-- Parameters: p_text, may be null.  Returns: 4 to 12 of A-Z a-z 0-9, trimmed, or null when it is none.
set role farebox_owner;

create function farebox._otp(p_text text)
returns text
language sql immutable security invoker parallel safe
as $$
  select case
    when p_text collate "C" ~ '^[A-Za-z0-9]+$' and length(p_text) between 4 and 12 then p_text
    when farebox._trimmed(p_text) collate "C" ~ '^[A-Za-z0-9]{4,12}$' then farebox._trimmed(p_text)
  end
$$;

comment on function farebox._otp(text) is 'A one-time password, null when the text is none';

reset role;
