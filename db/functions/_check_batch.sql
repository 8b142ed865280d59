-- Purpose: what every batch function asks of its argument.
-- Parameters: p_batch.  Returns: nothing.  Raises: TK001 not an array, TK002 longer than 10,000.
set role farebox_owner;

create function farebox._check_batch(p_batch json)
returns void
language plpgsql immutable security invoker parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
  if p_batch is null or json_typeof(p_batch) <> 'array' then
    raise exception using errcode = 'TK001',
      message = 'the batch is not a JSON array',
      detail = format('it is %s', coalesce('of JSON type ' || json_typeof(p_batch), 'null')),
      hint = 'pass an array of objects: [{"company_id": …}, …]';
  end if;
  if json_array_length(p_batch) > 10000 then
    raise exception using errcode = 'TK002',
      message = 'the batch is longer than 10,000',
      detail = format('it has %s elements', json_array_length(p_batch)),
      hint = 'send it in batches of 10,000 or fewer';
  end if;
end
$$;

comment on function farebox._check_batch(json) is 'Raises when a batch is not an array (TK001) or longer than 10,000 (TK002)';

reset role;
