-- Purpose: a UUID in any form PostgreSQL reads, after trimming.
-- Parameters: p_text, may be null.  Returns: the UUID, or null when the text is none.
set role farebox_owner;

create function farebox._uuid(p_text text)
returns uuid
language sql immutable security invoker parallel safe
as $$
  select case
    when farebox._trimmed(p_text) collate "C"
      ~* '^([0-9a-f]{4}(-?[0-9a-f]{4}){7}|\{[0-9a-f]{4}(-?[0-9a-f]{4}){7}\})$'
    then farebox._trimmed(p_text)::uuid
  end
$$;

comment on function farebox._uuid(text) is 'A UUID, null when the text is none';

reset role;
