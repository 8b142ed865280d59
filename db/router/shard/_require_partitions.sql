-- Purpose: what every call of the router asks first: do these partitions live here, and may they be written to?
-- Parameters: p_partitions.  Returns: nothing.  Raises: 55P03 (the router's map is old, or a partition is just moving: ask again).
-- Locks: own_partitions, ROW SHARE, so that no partition leaves before the caller has committed.
set role farebox_owner;

create or replace function farebox._require_partitions(p_partitions int[])
returns void
language plpgsql volatile security invoker
as $$
begin
  lock table farebox.own_partitions in row share mode;
  if exists (
    select from unnest(p_partitions) as p(partition)
    where not exists (select from farebox.own_partitions as o where o.partition = p.partition and o.is_open))
  then
    raise exception using errcode = 'lock_not_available',
      message = 'a partition is not on this shard now',
      hint = 'ask again; if it stays so, compare the maps: farebox shards check';
  end if;
end
$$;

comment on function farebox._require_partitions(int[]) is 'Internal: raises 55P03 unless these partitions live here';

reset role;
