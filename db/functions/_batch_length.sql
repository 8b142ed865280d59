-- Purpose: what every batch function asks of its argument.
-- Parameters: p_batch.  Returns: its length.  Raises: TK001 not an array, TK002 longer than 10,000.
set role farebox_owner;

create function farebox._batch_length(p_batch json)
returns int
language plpgsql immutable security invoker parallel safe
as $$
declare
  v_length int;
begin
  if p_batch is null or json_typeof(p_batch) <> 'array' then
    raise exception using errcode = 'TK001',
      message = 'the batch is not a JSON array',
      detail = format('it is %s', coalesce('of JSON type ' || json_typeof(p_batch), 'null')),
      hint = 'pass an array of objects: [{"company_id": …}, …]';
  end if;
  v_length := json_array_length(p_batch);
  if v_length > 10000 then
    raise exception using errcode = 'TK002',
      message = 'the batch is longer than 10,000',
      detail = format('it has %s elements', v_length),
      hint = 'send it in batches of 10,000 or fewer';
  end if;
  return v_length;
end
$$;

comment on function farebox._batch_length(json) is 'Internal: the length of a batch; raises TK001 when it is no array, TK002 when it is longer than 10,000';

reset role;
