-- Purpose: reads the keys by which operators name requests.
-- Parameters: p_keys.  Returns: the ids of those that read queue:<id>, and the payments of those that read payment:<id>.
-- Raises: TK002 more than 10,000, TK003 null or neither form.
set role farebox_owner;

create function farebox._read_queue_keys(p_keys text[], out queue_ids bigint[], out transaction_ids text[])
language plpgsql immutable security invoker parallel safe
as $$
begin
  if cardinality(p_keys) > 10000 then
    raise exception using errcode = 'TK002',
      message = format('%s keys at once', cardinality(p_keys)),
      hint = 'pass 10,000 or fewer';
  end if;
  if p_keys is null or exists (select from unnest(p_keys) as k(key) where (k.key ~ '^(queue:[1-9][0-9]{0,17}|payment:.*)$') is not true) then
    raise exception using errcode = 'TK003',
      message = 'a key is neither queue:<id> nor payment:<id>',
      hint = 'pass keys as farebox.list_dead_requests() shows them';
  end if;
  queue_ids := array(select substring(k.key from 7)::bigint from unnest(p_keys) as k(key) where starts_with(k.key, 'queue:'));
  transaction_ids := array(select substring(k.key from 9) from unnest(p_keys) as k(key) where starts_with(k.key, 'payment:'));
end
$$;

comment on function farebox._read_queue_keys(text[]) is 'Internal: queue ids and payments among the keys of requests';

reset role;
