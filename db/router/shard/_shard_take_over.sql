-- Purpose: gives a claim to another company, after the one who had it has given it up (_shard_yield).
-- Parameters: p_partition, of the subject; p_from and p_number as they were when it was given up.  Returns: the new number; no row when
--   somebody else was faster: then the claim must be read again.
set role farebox_owner;

create or replace function farebox._shard_take_over(
  p_partition int, p_kind text, p_subject text, p_from uuid, p_number int, p_to uuid)
returns setof int
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
as $$
begin
  perform farebox._require_partitions(array[p_partition]);
  return query
    update farebox.claims as c
    set company_id = p_to, number = c.number + 1, claimed_at = farebox._now()
    where c.subject = p_subject collate "C" and c.kind = p_kind::"char" and c.company_id = p_from and c.number = p_number
    returning c.number;
end
$$;

comment on function farebox._shard_take_over(int, text, text, uuid, int, uuid) is
  'For the router: gives a claim that was given up to another company';

reset role;
