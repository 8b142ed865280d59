-- Purpose: cancels payment codes: they buy nothing more, what they bought stands.
-- Parameters: p_batch of {company_id, code}.  Returns: cancelled, unchanged (it was before) or rejected for each.
-- Raises: TK001, TK002.  Locks and writes: payment_codes (by id).
set role farebox_owner;

create function farebox.cancel_payment_codes(p_batch json)
returns setof farebox.catalog_outcome
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
-- As create_tickets: the plans must not hang on statistics.
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
begin
  perform farebox._batch_length(p_batch);

  perform farebox._lock_codes(p_batch);

  return query
    with element as materialized (
      select e.ordinal::int as ordinal, o.object is null as is_invalid,
        farebox._uuid(farebox._jsonb_text(o.object, 'company_id')) as company_id, farebox._jsonb_text(o.object, 'code') as code
      from json_array_elements(p_batch) with ordinality as e(value, ordinal)
      cross join lateral (select farebox._json_object(e.value) as object offset 0) as o
    ),
    target as materialized (
      select e.*, k.id, k.status,
        row_number() over (partition by k.id order by e.ordinal) = 1 and k.status <> 'cancelled' as is_cancelling
      from element as e
      left join lateral (
        select k.id, k.status from farebox.payment_codes as k
        where k.code = e.code and k.company_id = e.company_id offset 0) as k on true
    ),
    cancelled as (
      update farebox.payment_codes as k
      set status = 'cancelled'
      where k.id = any (array(select t.id from target as t where t.is_cancelling))
    )
    select
      t.ordinal,
      t.id,
      case when t.id is null then 'rejected' when t.is_cancelling then 'cancelled' else 'unchanged' end,
      case
        when t.is_invalid then 'element_invalid'
        when t.company_id is null then 'company_id_invalid'
        when coalesce(length(t.code), 0) not between 1 and 64 then 'code_invalid'
        when t.id is null then 'code_not_found'
      end
    from target as t
    order by t.ordinal;
end
$$;

comment on function farebox.cancel_payment_codes(json) is 'Cancels payment codes; one outcome for each element, in order';

reset role;
