-- Purpose: adds and changes companies. An element without an id is a new company; absent keys keep what is stored.
-- Parameters: p_batch of {id?, name, monime_account_id?, commission_rate?, status?}.  Returns: created, updated, unchanged or rejected for each.
-- Raises: TK001, TK002.  Locks and writes: companies (by id).
set role farebox_owner;

create function farebox.upsert_companies(p_batch json)
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
  v_old farebox.companies;
  v_new farebox.companies;
  v_outcomes farebox.catalog_outcome[] := '{}'::farebox.catalog_outcome[];
  v_outcome text;
  v_reason text;
begin
  perform farebox._batch_length(p_batch);

  -- A loop, because a company may stand in the batch twice and the second change builds on the first. By id, so that two
  -- callers lock in one direction; elements of one id keep their order, and those of different ids do not touch each other.
  for v_element in
    select o.ordinal::int as ordinal, o.object, farebox._uuid(farebox._jsonb_text(o.object, 'id')) as id
    from (
      select e.ordinal, farebox._json_object(e.value) as object
      from json_array_elements(p_batch) with ordinality as e(value, ordinal)
    ) as o
    order by id, ordinal
  loop
    loop
      select c.* into v_old from farebox.companies as c where c.id = v_element.id for no key update;
      v_new := v_old;
      v_new.id := coalesce(v_element.id, farebox._uuid_v7());
      v_new.name := case when v_element.object ? 'name' then farebox._jsonb_text(v_element.object, 'name') else v_old.name end;
      v_new.monime_account_id := case when v_element.object ? 'monime_account_id'
        then farebox._jsonb_text(v_element.object, 'monime_account_id') else v_old.monime_account_id end;
      v_new.commission_rate := case when v_element.object ? 'commission_rate'
        then farebox._number(v_element.object ->> 'commission_rate', 0, 1, 4) else coalesce(v_old.commission_rate, 0.05) end;
      v_new.status := case when v_element.object ? 'status'
        then farebox._jsonb_text(v_element.object, 'status') else coalesce(v_old.status, 'active') end;
      v_new.created_at := coalesce(v_old.created_at, farebox._now());

      v_outcome := 'rejected';
      v_reason := case
        when v_element.object is null then 'element_invalid'
        when coalesce(v_element.object -> 'id', 'null') <> 'null' and v_element.id is null then 'company_id_invalid'
        when coalesce(length(v_new.name), 0) not between 1 and 200 then 'name_invalid'
        when coalesce(v_element.object -> 'monime_account_id', 'null') <> 'null'
          and coalesce(length(v_new.monime_account_id), 0) not between 1 and 64 then 'monime_account_id_invalid'
        when v_new.commission_rate is null then 'commission_rate_invalid'
        when v_new.status not in ('active', 'suspended') or v_new.status is null then 'status_invalid'
      end;
      exit when v_reason is not null;

      if v_old.id is not null then
        v_outcome := case when v_new is distinct from v_old then 'updated' else 'unchanged' end;
        if v_outcome = 'updated' then
          update farebox.companies as c
          set name = v_new.name, monime_account_id = v_new.monime_account_id, commission_rate = v_new.commission_rate,
            status = v_new.status
          where c.id = v_new.id;
        end if;
        exit;
      end if;
      insert into farebox.companies select v_new.* on conflict (id) do nothing;
      v_outcome := 'created';
      exit when found;  -- else another caller has just created it: look again
    end loop;
    v_outcomes := v_outcomes || row(v_element.ordinal, case when v_reason is null then v_new.id else v_element.id end,
      v_outcome, v_reason)::farebox.catalog_outcome;
  end loop;

  return query select o.* from unnest(v_outcomes) as o order by o.ordinal;
end
$$;

comment on function farebox.upsert_companies(json) is 'Adds and changes companies; one outcome for each element, in order';

reset role;
