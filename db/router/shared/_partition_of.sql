-- Purpose: the logical partition of a company, a payment or a code: by MD5, which is the same in every version and on every machine.
-- Parameters: p_key, the company's UUID as text, the transaction id, the code; null counts as ''.  Returns: 0 to partitions - 1.
-- _partition_mask(), the number of partitions less one, is made by `farebox shards init` and never changes.
set role farebox_owner;

create or replace function farebox._partition_of(p_key text)
returns int
language sql immutable security invoker parallel safe
as $$ select ('x' || left(md5(coalesce(p_key, '')), 8))::bit(32)::int & farebox._partition_mask() $$;

comment on function farebox._partition_of(text) is 'Internal: the logical partition of a company, a payment or a code';

reset role;
