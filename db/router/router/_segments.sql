-- Purpose: a batch means the same as its elements one after the other. Shards work side by side, so a batch in which several companies
--   name one payment is cut where the second one does: the parts are done one after the other. Nearly every batch is one part.
-- Parameters: p_elements.  Returns: the parts, in order, as the ordinals where they begin.
set role farebox_owner;

create or replace function farebox._segments(p_elements farebox._routed_element[])
returns int[]
language plpgsql stable security invoker
as $$
declare
  v_starts int[] := array[1];
  v_companies jsonb := '{}';
  v_element record;
begin
  -- The payments that several companies name. A loop, because where a part begins hangs on where the one before it did.
  for v_element in
    select e.ordinal, e.subject, coalesce(e.company_id::text, '') as company_id
    from unnest(p_elements) as e
    where e.subject in (
      select s.subject from unnest(p_elements) as s
      where s.subject is not null
      group by s.subject
      having min(coalesce(s.company_id::text, '')) <> max(coalesce(s.company_id::text, '')))
    order by e.ordinal
  loop
    if v_companies ->> v_element.subject <> v_element.company_id then
      v_starts := v_starts || v_element.ordinal;
      v_companies := '{}';
    end if;
    v_companies := v_companies || jsonb_build_object(v_element.subject, v_element.company_id);
  end loop;
  return v_starts;
end
$$;
comment on function farebox._segments(farebox._routed_element[]) is 'Internal: where a batch with contested payments is cut';

reset role;
