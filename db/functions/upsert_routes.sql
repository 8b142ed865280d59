-- Purpose: adds and changes routes. An element without an id is a new route; absent keys keep what is stored.
-- Parameters: p_batch of {id?, company_id, name, origin, destination, fare, status?}.  Returns: created, updated, unchanged or rejected for each.
-- Raises: TK001, TK002.  Locks and writes: routes (by id), their companies (shared, by the foreign key).
set role farebox_owner;

create function farebox.upsert_routes(p_batch json)
returns setof farebox.catalog_outcome
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
-- As create_tickets: the plans must not hang on statistics.
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
declare
  v_element record;
  v_old farebox.routes;
  v_new farebox.routes;
  v_outcomes farebox.catalog_outcome[] := '{}'::farebox.catalog_outcome[];
  v_outcome text;
  v_reason text;
begin
  perform farebox._batch_length(p_batch);

  -- A loop, by id: as in upsert_companies.
  for v_element in
    select o.ordinal::int as ordinal, o.object, farebox._uuid(farebox._jsonb_text(o.object, 'id')) as id,
      farebox._uuid(farebox._jsonb_text(o.object, 'company_id')) as company_id
    from (
      select e.ordinal, farebox._json_object(e.value) as object
      from json_array_elements(p_batch) with ordinality as e(value, ordinal)
    ) as o
    order by id, ordinal
  loop
    loop
      select r.* into v_old from farebox.routes as r where r.id = v_element.id for no key update;
      v_new := v_old;
      v_new.id := coalesce(v_element.id, farebox._uuid_v7());
      v_new.company_id := v_element.company_id;
      v_new.name := case when v_element.object ? 'name' then farebox._jsonb_text(v_element.object, 'name') else v_old.name end;
      v_new.origin := case when v_element.object ? 'origin' then farebox._jsonb_text(v_element.object, 'origin') else v_old.origin end;
      v_new.destination := case when v_element.object ? 'destination'
        then farebox._jsonb_text(v_element.object, 'destination') else v_old.destination end;
      v_new.fare := case when v_element.object ? 'fare' then farebox._amount(v_element.object ->> 'fare') else v_old.fare end;
      v_new.status := case when v_element.object ? 'status'
        then farebox._jsonb_text(v_element.object, 'status') else coalesce(v_old.status, 'active') end;
      v_new.created_at := coalesce(v_old.created_at, farebox._now());

      v_outcome := 'rejected';
      v_reason := case
        when v_element.object is null then 'element_invalid'
        when coalesce(v_element.object -> 'id', 'null') <> 'null' and v_element.id is null then 'route_id_invalid'
        when v_element.company_id is null then 'company_id_invalid'
        when coalesce(length(v_new.name), 0) not between 1 and 200 then 'name_invalid'
        when coalesce(length(v_new.origin), 0) not between 1 and 200 then 'origin_invalid'
        when coalesce(length(v_new.destination), 0) not between 1 and 200 then 'destination_invalid'
        when v_new.fare is null then 'fare_invalid'
        when v_new.status not in ('active', 'inactive') or v_new.status is null then 'status_invalid'
        when v_old.company_id <> v_element.company_id then 'company_mismatch'
        when not exists (select from farebox.companies as c where c.id = v_element.company_id for key share) then 'company_not_found'
      end;
      exit when v_reason is not null;

      if v_old.id is not null then
        v_outcome := case when v_new is distinct from v_old then 'updated' else 'unchanged' end;
        if v_outcome = 'updated' then
          update farebox.routes as r
          set name = v_new.name, origin = v_new.origin, destination = v_new.destination, fare = v_new.fare, status = v_new.status
          where r.id = v_new.id;
        end if;
        exit;
      end if;
      insert into farebox.routes select v_new.* on conflict (id) do nothing;
      v_outcome := 'created';
      exit when found;  -- else another caller has just created it: look again
    end loop;
    v_outcomes := v_outcomes || row(v_element.ordinal, case when v_reason is null then v_new.id else v_element.id end,
      v_outcome, v_reason)::farebox.catalog_outcome;
  end loop;

  return query select o.* from unnest(v_outcomes) as o order by o.ordinal;
end
$$;

comment on function farebox.upsert_routes(json) is 'Adds and changes routes; one outcome for each element, in order';

reset role;
