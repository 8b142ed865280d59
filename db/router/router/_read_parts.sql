-- Purpose: an ordinary batch, cut for its shards in one pass over its text.
-- Parameters: p_batch; p_has_registry.  Returns: arrays with an element a shard, as PL/Proxy wants them: the parts, and with the registry what
--   is to be claimed where. `ats` is null for a batch that is not ordinary: empty, or with elements without a company or, with the registry, a
--   payment. _route_requests reads those.  Raises: data exceptions for what cannot be read as it is.
set role farebox_owner;

create or replace function farebox._read_parts(p_batch json, p_has_registry boolean,
  out ats int[], out partitions text[], out ordinals text[], out batches text[],
  out home_ats int[], out home_partitions text[], out subjects text[], out companies text[], out length int)
language plpgsql stable security invoker
-- The planner cannot know how long a batch is: elements and companies are joined by a hash, or a long one would take its length squared.
set enable_nestloop = off
set enable_mergejoin = off
set jit = off
as $$
declare
  v_ats int[] := (select array_agg(p.at order by p.partition) from farebox.partitions as p);
  v_placed int;
begin
  if not p_has_registry then
    with element as materialized (
      select z.ordinal::int as ordinal, z.request, z.request ->> 'company_id' as given_company
      from json_array_elements(p_batch) with ordinality as z(request, ordinal)
    ),
    -- A batch names few companies, many times each.
    company as materialized (
      select d.given_company, d.partition, v_ats[d.partition + 1] as at
      from (
        select x.given_company, farebox._partition_of((x.given_company::uuid)::text) as partition
        from (select distinct e.given_company from element as e) as x
        where octet_length(x.given_company) = 36  -- nothing that may have been a number, see _read_routes
        offset 0) as d
    )
    select
      array_agg(g.at), array_agg(g.partitions), array_agg(g.ordinals), array_agg(g.batch),
      coalesce(sum(g.placed), 0), (select count(*) from element)
    into ats, partitions, ordinals, batches, v_placed, length
    from (
      -- In the order of the elements, as which they come: sorted once, not for each column.
      select e.at, (select array_agg(c.partition) from company as c where c.at = e.at)::text as partitions,
        array_agg(e.ordinal)::text as ordinals, '[' || string_agg(e.request::text, ',') || ']' as batch, count(*) as placed
      from (
        select c.at, e.ordinal, e.request
        from element as e
        join company as c on c.given_company = e.given_company
        order by c.at, e.ordinal) as e
      group by e.at
    ) as g;
  else
    with element as materialized (
      select z.ordinal::int as ordinal, z.request, z.company as given_company,
        case when json_typeof(z.transaction) = 'string' then farebox._trimmed(z.transaction #>> '{}') end as subject
      from rows from (
        json_array_elements(p_batch),
        json_to_recordset(p_batch) as (company_id text, monime_transaction_id json)) with ordinality
        as z(request, company, transaction, ordinal)
    ),
    company as materialized (
      select d.given_company, d.id, d.partition, v_ats[d.partition + 1] as at
      from (
        select x.given_company, x.given_company::uuid as id, farebox._partition_of((x.given_company::uuid)::text) as partition
        from (select distinct e.given_company from element as e) as x
        where octet_length(x.given_company) = 36
        offset 0) as d
    ),
    placed as materialized (
      select e.ordinal, e.request, e.subject, c.id, c.at, farebox._partition_of(e.subject) as home
      from element as e
      join company as c on c.given_company = e.given_company
      where length(e.subject) between 1 and 64
    )
    select p.ats, p.partitions, p.ordinals, p.batches, h.ats, h.partitions, h.subjects, h.companies, p.placed, (select count(*) from element)
    into ats, partitions, ordinals, batches, home_ats, home_partitions, subjects, companies, v_placed, length
    from (
      select
        array_agg(g.at) as ats, array_agg(g.partitions) as partitions, array_agg(g.ordinals) as ordinals, array_agg(g.batch) as batches,
        coalesce(sum(g.placed), 0) as placed
      from (
        select e.at, (select array_agg(c.partition) from company as c where c.at = e.at)::text as partitions,
          array_agg(e.ordinal)::text as ordinals, '[' || string_agg(e.request::text, ',') || ']' as batch, count(*) as placed
        from (select e.at, e.ordinal, e.request from placed as e order by e.at, e.ordinal) as e
        group by e.at
      ) as g
    ) as p
    cross join (
      select
        array_agg(g.at) as ats, array_agg(g.partitions) as partitions, array_agg(g.subjects) as subjects, array_agg(g.companies) as companies
      from (
        select v_ats[e.home + 1] as at, array_agg(distinct e.home)::text as partitions, array_agg(e.subject)::text as subjects,
          array_agg(e.id)::text as companies
        from placed as e
        group by 1
      ) as g
    ) as h;
  end if;

  if v_placed < length then
    ats := null;
  end if;
end
$$;

comment on function farebox._read_parts(json, boolean) is 'Internal: an ordinary batch, cut for its shards';

reset role;
