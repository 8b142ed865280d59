-- Purpose: whether a company's rows belong here.
set role farebox_owner;

create or replace function farebox._own_partition(p_company_id uuid)
returns boolean
language sql stable security invoker
as $$
  select exists (
    select from farebox.own_partitions as o where o.partition = farebox._partition_of(p_company_id::text) and o.is_open)
$$;

comment on function farebox._own_partition(uuid) is 'Internal: whether a company''s rows belong here';

reset role;
