-- Purpose: a text field of a catalog element, trimmed.
-- Parameters: p_object, p_key.  Returns: the text; null when it is absent or no JSON string.
set role farebox_owner;

create function farebox._jsonb_text(p_object jsonb, p_key text)
returns text
language sql immutable security invoker parallel safe
as $$ select case when jsonb_typeof(p_object -> p_key) = 'string' then farebox._trimmed(p_object ->> p_key) end $$;

comment on function farebox._jsonb_text(jsonb, text) is 'Internal: a text field, trimmed; null when it is no JSON string';

reset role;
