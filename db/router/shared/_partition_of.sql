-- Purpose: the logical partition of a company, a payment or a code: by MD5, which is the same in every version and on every machine.
-- Parameters: p_key, the company's UUID as text, the transaction id, the code; null counts as ''.  Returns: 0 to partitions - 1.
-- _partition_mask(), the number of partitions less one, is made by `farebox shards init` and never changes.
set role farebox_owner;

create or replace function farebox._partition_of(p_key text)
returns int
language sql immutable security invoker parallel safe
as $$ select ('x' || left(md5(coalesce(p_key, '')), 8))::bit(32)::int & farebox._partition_mask() $$;

comment on function farebox._partition_of(text) is 'Internal: the logical partition of a company, a payment or a code';

-- The same as a condition on the rows of a table, for the row filter of a publication, in which only built-in functions are allowed and
-- no casts that go by text. `farebox shards move` compares the two on every company before it trusts them.
-- Parameters: p_column, its name; p_type, uuid or text; p_partition.
create or replace function farebox._partition_filter(p_column text, p_type text, p_partition int)
returns text
language sql immutable security invoker
as $$
  select format('(get_byte(decode(substr(md5(%1$s), 5, 4), ''hex''), 0) * 256 + get_byte(decode(substr(md5(%1$s), 5, 4), ''hex''), 1)) & %2$s = %3$s',
    case p_type when 'uuid' then format('textin(uuid_out(%I))', p_column) else quote_ident(p_column) end,
    farebox._partition_mask(), p_partition)
$$;

comment on function farebox._partition_filter(text, text, int) is 'Internal: the rows of a partition, as a row filter of a publication';

reset role;
