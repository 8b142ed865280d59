-- Purpose: what every call of the router asks first: do these partitions live here, and may they be written to?
-- Parameters: p_partitions.  Returns: nothing.  Raises: 55P03 (the router's map is old, or a partition is just moving: ask again).
-- Locks: the advisory lock of a partition that is just moving, for two seconds at most, before any other; then own_partitions, ROW SHARE,
--   so that no partition leaves before the caller has committed.
set role farebox_owner;

create or replace function farebox._require_partitions(p_partitions int[])
returns void
language plpgsql volatile security invoker
as $$
begin
  -- Whoever waits for the mover here finds the new map when asking again. Who asked again at once would find the old one.
  if exists (
    select from farebox.own_partitions as o
    where (not o.is_open or o.fenced_until > clock_timestamp()) and o.partition = any (p_partitions))
  then
    perform farebox._await_partitions(p_partitions);
  end if;
  lock table farebox.own_partitions in row share mode;
  perform farebox._require_open(p_partitions);
end
$$;

comment on function farebox._require_partitions(int[]) is 'Internal: raises 55P03 unless these partitions live here';

create or replace function farebox._require_open(p_partitions int[])
returns void
language plpgsql volatile security invoker
as $$
begin
  if exists (
    select from unnest(p_partitions) as p(partition)
    where not exists (
      select from farebox.own_partitions as o
      where o.partition = p.partition and o.is_open and (o.fenced_until > clock_timestamp()) is not true))
  then
    raise exception using errcode = 'lock_not_available',
      message = 'a partition is not on this shard now',
      hint = 'ask again; if it stays so, compare the maps: farebox shards check';
  end if;
end
$$;

comment on function farebox._require_open(int[]) is 'Internal: raises 55P03 unless these partitions are open here';

-- Waits for the mover that holds the lock of one of these partitions. One that died holds none.  Raises: 55P03 after two seconds.
create or replace function farebox._await_partitions(p_partitions int[])
returns void
language plpgsql volatile security invoker
set search_path = pg_catalog, pg_temp
set lock_timeout = '2s'
as $$
declare
  v_class int := 'farebox.own_partitions'::regclass::oid::int;
  v_partition int;
begin
  for v_partition in
    select o.partition from farebox.own_partitions as o where not o.is_open or o.fenced_until > clock_timestamp()
    intersect
    select p from unnest(p_partitions) as p
  loop
    begin
      perform pg_advisory_xact_lock_shared(v_class, v_partition);
      -- Given back at once, and also by whoever is canceled here: the next mover would wait for a session that keeps it.
      raise exception using errcode = 'TK000', message = 'the mover has finished';
    exception when sqlstate 'TK000' then
      null;
    end;
  end loop;
end
$$;

comment on function farebox._await_partitions(int[]) is 'Internal: waits for the mover of these partitions';

reset role;
