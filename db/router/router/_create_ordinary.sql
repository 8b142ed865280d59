-- Purpose: the short way of what nearly all batches are: every element names its company, no payment is contested, every shard answers.
-- Parameters: p_batch; p_has_registry.  Returns: the outcomes, in any order; null where the long way is needed (_route_requests, _create_routed).
-- Nothing is sold before that is known, but a shard may be lost while it sells: then its elements are read the long way, to be answered.
set role farebox_owner;

create or replace function farebox._create_ordinary(p_batch json, p_has_registry boolean)
returns farebox.ticket_outcome[]
language plpgsql volatile security invoker
as $$
declare
  v_read record;
  v_outcomes farebox.ticket_outcome[];
  v_elements farebox._routed_element[];
begin
  -- As in _route_requests; and a shard that is down already is left out beforehand there.
  if p_batch is null or pg_column_size(p_batch) > 1000000 or farebox._shards_down() <> '{}' then
    return null;
  end if;
  begin
    v_read := farebox._read_parts(p_batch, p_has_registry);
  exception when data_exception or statement_too_complex then
    return null;
  end;
  if v_read.ats is null or v_read.length > 10000 then
    return null;
  end if;

  if p_has_registry then
    begin
      -- Whatever is not simply the asking company's is settled the long way, which finds these claims as its own.
      if exists (
        select from farebox._at_claim(v_read.home_ats, 'p', v_read.home_partitions, v_read.subjects, v_read.companies))
      then
        return null;
      end if;
    exception when others or query_canceled then
      perform farebox._find_lost(v_read.home_ats, sqlstate, sqlerrm);
      return null;
    end;
  end if;

  v_outcomes := farebox._create_at(v_read.ats, v_read.partitions, v_read.ordinals, array_fill('[]'::text, array[cardinality(v_read.ats)]),
    array(select farebox._uuid_v7() from unnest(v_read.ats)), v_read.batches);
  if cardinality(v_outcomes) = v_read.length
    and not (p_has_registry and exists (
      select from unnest(v_outcomes) as o where o.reason = 'transaction_id_unavailable'))
  then
    return v_outcomes;
  end if;
  v_elements := farebox._route_requests(p_batch);
  return farebox._complete_outcomes(v_elements, v_elements, v_outcomes, '{}', p_has_registry, 1);
end
$$;

comment on function farebox._create_ordinary(json, boolean) is 'Internal: the outcomes of an ordinary batch, else null';

reset role;
