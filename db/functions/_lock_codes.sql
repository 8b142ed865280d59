-- Purpose: locks the issued codes that a catalog batch names, in the one order that create_tickets locks them in.
-- Parameters: p_batch, an array of objects with a code.  Returns: nothing.  Locks: payment_codes (by id).
set role farebox_owner;

create function farebox._lock_codes(p_batch json)
returns void
language plpgsql volatile security invoker
as $$
declare
  -- In two steps: asked for by code and wanted by id, the planner might read all codes by id instead of a few by code.
  v_codes uuid[] := array(
    select k.id
    from (select distinct farebox._jsonb_text(farebox._json_object(e.value), 'code') as code from json_array_elements(p_batch) as e) as d
    cross join lateral (select k.id from farebox.payment_codes as k where k.code = d.code offset 0) as k);
begin
  perform from farebox.payment_codes as k where k.id = any (v_codes) order by k.id for no key update;
end
$$;

comment on function farebox._lock_codes(json) is 'Internal: locks the payment codes that a catalog batch names, by id';

reset role;
