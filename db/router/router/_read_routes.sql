-- Purpose: which shards the elements of a batch go to.
-- Parameters: p_readable, a batch that json_to_recordset can read; p_batch, the same as it came.  Returns: the elements in order. An element without
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
  -- Read in one go with its text, of which nothing else is looked at here.
  with element as materialized (
    select t.ordinal, t.request, t.given_company, t.given_id, case when length(t.trimmed) between 1 and 64 then t.trimmed end as subject
    from (
      select r.*, case when r.is_text and (v_has_registry or r.given_company = '') then farebox._trimmed(r.given_id) end as trimmed
      from (
        select z.ordinal::int as ordinal, z.request, coalesce(z.company, '') as given_company, z.transaction #>> '{}' as given_id,
          json_typeof(z.transaction) = 'string' as is_text
        from rows from (
          json_array_elements(p_batch),
          json_to_recordset(p_readable) as (company_id text, monime_transaction_id json)) with ordinality
          as z(request, company, transaction, ordinal)
        offset 0) as r  -- steps, so that no column is computed again at each use
      offset 0) as t
  ),
  -- A batch names few companies, many times each.
  company as (
    select d.given_company, nullif(d.given_company, '')::uuid as id,
      farebox._partition_of((nullif(d.given_company, '')::uuid)::text) as partition,
      octet_length(d.given_company) < 36 and d.given_company collate "C" ~ '^[0-9eE+-]+$' as may_be_number
    from (select distinct e.given_company from element as e) as d
    offset 0
  ),
  placed as (
    select e.ordinal, e.given_id, e.subject, c.id as company_id, e.request, c.may_be_number,
      case when c.id is not null then c.partition when e.subject is not null then farebox._partition_of(e.subject) else 0 end as partition,
      case when v_has_registry and c.id is not null and e.subject is not null then farebox._partition_of(e.subject) end as home
    from element as e
    join company as c on c.given_company = e.given_company
    offset 0
  )
  select
    array_agg(row(
      p.ordinal, p.given_id, p.subject, p.company_id, p.partition, v_ats[p.partition + 1], p.home, v_ats[p.home + 1], null,
      p.request)::farebox._routed_element order by p.ordinal),
    bool_or(p.may_be_number)
  into v_elements, v_has_number
  from placed as p;

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
  v_elements farebox._routed_element[];
begin
  begin
    -- As in create_tickets of one database: counting is one more pass over the whole text.
    if v_batch is null or pg_column_size(v_batch) > 1000000 then
      perform farebox._batch_length(v_batch);
    end if;
    v_elements := farebox._read_routes(v_batch, v_batch, false);
  exception when data_exception or statement_too_complex then
    if sqlstate = '54001' then
      v_batch := farebox._shallow_json(v_batch);
    end if;
    perform farebox._batch_length(v_batch);
    v_elements := farebox._read_routes(farebox._clean_batch(v_batch), v_batch, true);
  end;
  if cardinality(v_elements) > 10000 then
    perform farebox._batch_length(v_batch);
  end if;
  return v_elements;
end
$$;
comment on function farebox._route_requests(json) is 'Internal: which shards the elements of any batch go to';

reset role;
