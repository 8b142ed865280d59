-- Purpose: issues payment codes, and changes the limit or the end of issued ones. The code itself names the row, so a retry is harmless.
-- Parameters: p_batch of {id?, company_id, route_id?, code, total_tickets, expires_at?}; on an issued code absent keys keep what is stored.
-- Returns: created, updated, unchanged or rejected for each.  Raises: TK001, TK002.
-- Locks and writes: payment_codes (by id), their companies and routes (shared).
set role farebox_owner;

create function farebox.issue_payment_codes(p_batch json)
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
  v_old farebox.payment_codes;
  v_new farebox.payment_codes;
  v_outcomes farebox.catalog_outcome[] := '{}'::farebox.catalog_outcome[];
  v_outcome text;
  v_reason text;
begin
  perform farebox._batch_length(p_batch);

  -- The issued codes of the batch are locked first, in the one order that create_tickets locks them in.
  perform farebox._lock_codes(p_batch);

  -- A loop, because a code may stand in the batch twice and the second change builds on the first. New codes are inserted in the
  -- order of the code, so that two callers wait in one direction.
  for v_element in
    select o.ordinal::int as ordinal, o.object, farebox._jsonb_text(o.object, 'code') as code,
      farebox._uuid(farebox._jsonb_text(o.object, 'id')) as id,
      farebox._uuid(farebox._jsonb_text(o.object, 'company_id')) as company_id,
      farebox._uuid(farebox._jsonb_text(o.object, 'route_id')) as route_id
    from (
      select e.ordinal, farebox._json_object(e.value) as object
      from json_array_elements(p_batch) with ordinality as e(value, ordinal)
    ) as o
    order by farebox._jsonb_text(o.object, 'code') collate "C", o.ordinal
  loop
    loop
      select k.* into v_old from farebox.payment_codes as k where k.code = v_element.code for no key update;
      v_new := v_old;
      v_new.id := coalesce(v_old.id, v_element.id, farebox._uuid_v7());
      v_new.company_id := v_element.company_id;
      v_new.code := v_element.code;
      v_new.route_id := case when v_element.object ? 'route_id' then v_element.route_id else v_old.route_id end;
      v_new.total_tickets := case when v_element.object ? 'total_tickets'
        then farebox._number(v_element.object ->> 'total_tickets', 1, 2147483647, 0)::int else v_old.total_tickets end;
      v_new.used_tickets := coalesce(v_old.used_tickets, 0);
      v_new.status := coalesce(v_old.status, 'active');
      v_new.created_at := coalesce(v_old.created_at, farebox._now());
      if v_element.object ? 'expires_at' then
        v_new.expires_at := farebox._timestamp(farebox._jsonb_text(v_element.object, 'expires_at'));
      end if;

      v_outcome := 'rejected';
      v_reason := case
        when v_element.object is null then 'element_invalid'
        when coalesce(v_element.object -> 'id', 'null') <> 'null' and v_element.id is null then 'payment_code_id_invalid'
        when v_element.company_id is null then 'company_id_invalid'
        when coalesce(v_element.object -> 'route_id', 'null') <> 'null' and v_element.route_id is null then 'route_id_invalid'
        when coalesce(length(v_element.code), 0) not between 1 and 64 then 'code_invalid'
        when v_new.total_tickets is null then 'total_tickets_invalid'
        when coalesce(v_element.object -> 'expires_at', 'null') <> 'null' and v_new.expires_at is null then 'expires_at_invalid'
        when not exists (select from farebox.companies as c where c.id = v_element.company_id for key share) then 'company_not_found'
        when v_new.route_id is not null and not exists (
          select from farebox.routes as r where r.id = v_new.route_id and r.company_id = v_element.company_id for key share) then 'route_not_found'
        when v_old.company_id <> v_element.company_id or v_element.id <> v_old.id
          or v_old.id is not null and v_new.route_id is distinct from v_old.route_id then 'code_taken'
        when v_new.total_tickets < v_old.used_tickets then 'total_below_used'
        when v_old.status = 'cancelled' and v_new is distinct from v_old then 'code_cancelled'
      end;
      exit when v_reason is not null;

      if v_old.id is not null then
        v_outcome := case when v_new is distinct from v_old then 'updated' else 'unchanged' end;
        if v_outcome = 'updated' then
          -- The status follows: see _follow_code_terms.
          update farebox.payment_codes as k
          set total_tickets = v_new.total_tickets, expires_at = v_new.expires_at
          where k.id = v_new.id;
        end if;
        exit;
      end if;
      insert into farebox.payment_codes select v_new.* on conflict do nothing;
      v_outcome := 'created';
      exit when found;
      -- Another caller has just issued the code: look again. Or the id belongs to another code.
      if not exists (select from farebox.payment_codes as k where k.code = v_element.code) then
        v_outcome := 'rejected';
        v_reason := 'code_taken';
        exit;
      end if;
    end loop;
    v_outcomes := v_outcomes || row(v_element.ordinal, case when v_reason is null then v_new.id else v_element.id end,
      v_outcome, v_reason)::farebox.catalog_outcome;
  end loop;

  return query select o.* from unnest(v_outcomes) as o order by o.ordinal;
end
$$;

comment on function farebox.issue_payment_codes(json) is
  'Issues payment codes, or changes their limit or end; one outcome for each element, in order';

reset role;
