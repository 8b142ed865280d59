-- Purpose: what every function with a limit asks of it.
-- Parameters: p_limit, the most it may be.  Returns: nothing.  Raises: TK003.
set role farebox_owner;

create function farebox._check_limit(p_limit int, p_most int)
returns void
language plpgsql immutable security invoker parallel safe
as $$
begin
  if p_limit is null or p_limit not between 1 and p_most then
    raise exception using errcode = 'TK003',
      message = format('the limit is %s', coalesce(p_limit::text, 'null')),
      hint = format('pass a limit from 1 to %s', p_most);
  end if;
end
$$;

comment on function farebox._check_limit(int, int) is 'Raises TK003 when a limit is null or out of range';

reset role;
