-- Purpose: shards answer in transactions of their own, by what is there now: a strict isolation level cannot be honoured, so it is refused.
-- Raises: TK005.
set role farebox_owner;

create or replace function farebox._refuse_strict_isolation()
returns void
language plpgsql stable security invoker
as $$
begin
  if current_setting('transaction_isolation') not like 'read %' then
    raise exception using errcode = 'TK005',
      message = format('a router does not offer %s', upper(current_setting('transaction_isolation'))),
      detail = 'the shards commit by themselves, and are read as they are now',
      hint = 'use READ COMMITTED';
  end if;
end
$$;

comment on function farebox._refuse_strict_isolation() is 'Internal: raises TK005 in isolation levels above READ COMMITTED';

reset role;
