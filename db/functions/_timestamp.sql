-- Purpose: a time as clients write it: ISO 8601 with an offset or Z; nothing that would hang on the session's settings.
-- Parameters: p_text, may be null.  Returns: the time, or null when it is none.
set role farebox_owner;

create function farebox._timestamp(p_text text)
returns timestamptz
language plpgsql stable strict security invoker parallel safe
as $$
begin
  if p_text collate "C" ~* '^[0-9]{4}-[0-9]{2}-[0-9]{2}[t ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,9})?)?( ?(z|[-+][0-9]{2}(:?[0-9]{2})?))$' then
    return p_text::timestamptz;
  end if;
  return null;
exception when data_exception then
  return null;  -- the shape is right, the date is not: the 31st of February
end
$$;

comment on function farebox._timestamp(text) is 'A time in ISO 8601 with an offset, null when the text is none';

reset role;
