-- Purpose: a guess whether a batch has been here before, from its first payment: right or wrong, only the way to the answer differs.
-- Parameters: p_batch.  Returns: whether the first transaction id that stands plainly at its beginning has a ticket.
set role farebox_owner;

create function farebox._looks_replayed(p_batch json)
returns boolean
language plpgsql volatile security invoker
as $$
begin
  return exists (
    select from farebox.tickets as t
    -- The text between the next two quotes after the key.
    where t.monime_transaction_id = split_part(split_part(left(p_batch::text, 1000), '"monime_transaction_id"', 2), '"', 2));
end
$$;

comment on function farebox._looks_replayed(json) is 'Internal: a guess whether a batch has been here before';

reset role;
