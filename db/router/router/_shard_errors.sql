-- Purpose: what an error of PL/Proxy means: a shard that cannot be asked now, or an error of the shard's function.
set role farebox_owner;

create or replace function farebox._is_lost_shard(p_sqlstate text, p_message text)
returns boolean
language sql immutable security invoker
as $$
  select left(p_sqlstate, 2) in ('08', '40')
    or p_sqlstate in ('57P01', '57P02', '57P03', '57P05', '55P03', '25006', '57014')
    -- Its disk is full, its memory or its connections are used up, it cannot read its files: nobody else's trouble.
    or left(p_sqlstate, 2) in ('53', '58') or p_sqlstate in ('XX001', 'XX002')
    or p_sqlstate = 'XX000' and starts_with(p_message, 'PL/Proxy function')
    -- PgBouncer's own words, which come without a code of their own.
    or p_sqlstate in ('08P01', 'XX000') and p_message like '%REMOTE FATAL%'
$$;
comment on function farebox._is_lost_shard(text, text) is 'Internal: whether the same call may succeed a moment later';

-- Raises what the shard raised, as if there were no router in between; 57P03 where the shard cannot be asked.
create or replace function farebox._raise_from_shard(p_sqlstate text, p_message text, p_detail text, p_hint text)
returns void
language plpgsql immutable security invoker
as $$
declare
  v_message text;
begin
  if p_sqlstate in ('XX000', '08P01') and farebox._is_lost_shard(p_sqlstate, p_message) then
    raise exception using errcode = 'cannot_connect_now',
      message = 'a shard is not available',
      hint = 'try again; farebox shards status tells which';
  end if;
  v_message := regexp_replace(p_message, '^\S+\(\d+\): \[[^]]*\] REMOTE \w+: ', '');
  if p_detail <> '' then
    raise exception using errcode = p_sqlstate, message = v_message, hint = regexp_replace(coalesce(p_hint, ''), '^Remote hint: ', ''),
      detail = regexp_replace(p_detail, '^Remote detail: ', '');
  elsif p_hint <> '' then
    raise exception using errcode = p_sqlstate, message = v_message, hint = regexp_replace(p_hint, '^Remote hint: ', '');
  end if;
  raise exception using errcode = p_sqlstate, message = v_message;
end
$$;
comment on function farebox._raise_from_shard(text, text, text, text) is 'Internal: raises what a shard raised';

-- For handlers of errors: returns when the shard is lost (then its rows are answered without it), raises for everything else.
create or replace function farebox._skip_lost_shard(p_sqlstate text, p_message text)
returns void
language plpgsql immutable security invoker
as $$
begin
  -- Canceled by the caller, not on the shard: nobody waits for the answer.
  if p_sqlstate = '57014' and p_message not like '%REMOTE%' then
    raise exception using errcode = 'query_canceled', message = p_message;
  elsif not farebox._is_lost_shard(p_sqlstate, p_message) then
    perform farebox._raise_from_shard(p_sqlstate, p_message, '', '');
  end if;
end
$$;
comment on function farebox._skip_lost_shard(text, text) is 'Internal: raises unless the error means that a shard is lost';

reset role;
