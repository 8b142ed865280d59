-- Purpose: an element of a catalog batch in a form whose fields can be read safely.
-- Parameters: p_element.  Returns: the object, or null when it is no object or holds what no text or number can (a NUL escape, 1e99999, a thousandfold nesting).
set role farebox_owner;

create function farebox._json_object(p_element json)
returns jsonb
language plpgsql immutable strict security invoker parallel safe
as $$
begin
  if json_typeof(p_element) = 'object' then
    return p_element::jsonb;
  end if;
  return null;
exception when data_exception or statement_too_complex or program_limit_exceeded then
  return null;
end
$$;

comment on function farebox._json_object(json) is 'Internal: a JSON element as an object that can be read safely, or null';

reset role;
