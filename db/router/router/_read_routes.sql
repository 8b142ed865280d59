-- Purpose: which shards the elements of a batch go to.
-- Parameters: p_readable, a batch that _parse_batch can read; p_batch, the same as it came.  Returns: the elements in order. An element without
--   a company goes to the shard of its payment, and what has neither to any.
-- Raises: data exceptions for what cannot be read as it is.
set role farebox_owner;

create or replace function farebox._read_routes(p_readable json, p_batch json, p_is_clean boolean)
returns farebox._routed_element[]
language plpgsql stable security invoker
set jit = off
as $$
declare
  v_ats int[] := (select array_agg(p.at order by p.partition) from farebox.partitions as p);
  v_has_registry boolean := (select s.has_registry from farebox.sharding as s);
  v_elements farebox._routed_element[];
  v_has_number boolean;
begin
  with element as materialized (
    select b.ordinal, b.given_id, case when length(b.transaction_id) between 1 and 64 then b.transaction_id end as transaction_id,
      b.given_company, b.id_may_be_number
    from farebox._parse_batch(p_readable) as b
  ),
  company as (
    select d.given_company, nullif(d.given_company, '')::uuid as id,
      farebox._partition_of((nullif(d.given_company, '')::uuid)::text) as partition
    from (select distinct e.given_company from element as e) as d
    offset 0
  ),
  placed as (
    select e.*, c.id as company_id,
      case when c.id is not null then c.partition when e.transaction_id is not null then farebox._partition_of(e.transaction_id) else 0 end
        as partition,
      case when v_has_registry and c.id is not null and e.transaction_id is not null then farebox._partition_of(e.transaction_id) end as home
    from element as e
    join company as c on c.given_company = e.given_company
    offset 0
  )
  select
    array_agg(row(
      p.ordinal, p.given_id, p.transaction_id, p.company_id, p.partition, v_ats[p.partition + 1], p.home, v_ats[p.home + 1], null,
      r.request)::farebox._routed_element order by p.ordinal),
    bool_or(p.id_may_be_number)
  into v_elements, v_has_number
  from placed as p
  join json_array_elements(p_batch) with ordinality as r(request, ordinal) on r.ordinal = p.ordinal;

  -- As in _read_requests.
  if v_has_number and not p_is_clean then
    raise exception using errcode = 'data_exception', message = 'a UUID that may have been a number';
  end if;
  return coalesce(v_elements, '{}');
end
$$;
comment on function farebox._read_routes(json, json, boolean) is 'Internal: which shards the elements of a batch go to';

-- The same for any batch.  Raises: TK001, TK002.
create or replace function farebox._route_requests(p_batch json)
returns farebox._routed_element[]
language plpgsql stable security invoker
as $$
declare
  v_batch json := p_batch;
begin
  begin
    perform farebox._batch_length(v_batch);
    return farebox._read_routes(v_batch, v_batch, false);
  exception when data_exception or statement_too_complex then
    if sqlstate = '54001' then
      v_batch := farebox._shallow_json(v_batch);
      perform farebox._batch_length(v_batch);
    end if;
    return farebox._read_routes(farebox._clean_batch(v_batch), v_batch, true);
  end;
end
$$;
comment on function farebox._route_requests(json) is 'Internal: which shards the elements of any batch go to';

reset role;
