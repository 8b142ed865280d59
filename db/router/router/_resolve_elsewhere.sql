-- Purpose: unapplied payments that wait on another shard than the one where their ticket is resolve, as they would in one database.
--   If this does not come about (the shard is lost), apply_unapplied_payments does it.
-- Parameters: p_elements, p_outcomes and p_claims of a batch.  Returns: nothing.
set role farebox_owner;

create or replace function farebox._resolve_elsewhere(
  p_elements farebox._routed_element[], p_outcomes farebox.ticket_outcome[], p_claims farebox._routed_claim[])
returns void
language plpgsql volatile security invoker
as $$
declare
  v_open record;
  v_ticket_id uuid;
begin
  -- A loop over the few that wait elsewhere, and those that name no company, which wait with their payment's registry.
  for v_open in
    select distinct a.at, c.subject, coalesce(c.ticket_id, o.ticket_id, o.existing_ticket_id) as ticket_id
    from unnest(p_claims) as c
    cross join unnest(c.resolve_ats) as a(at)
    left join unnest(p_elements) as e on e.subject = c.subject and e.company_id = c.asking
    left join unnest(p_outcomes) as o on o.ordinal = e.ordinal
    where coalesce(c.ticket_id, o.ticket_id, o.existing_ticket_id) is not null
    union
    select e.at, e.subject, null from unnest(p_elements) as e where e.company_id is null and e.subject is not null
  loop
    begin
      v_ticket_id := coalesce(v_open.ticket_id, farebox._ticket_of(v_open.subject));
      if v_ticket_id is not null then
        perform farebox._at_resolve(v_open.at, v_open.subject, v_ticket_id);
      end if;
    exception when others or query_canceled then
      perform farebox._skip_lost_shard(sqlstate, sqlerrm);
    end;
  end loop;
end
$$;
comment on function farebox._resolve_elsewhere(farebox._routed_element[], farebox.ticket_outcome[], farebox._routed_claim[]) is
  'Internal: resolves unapplied payments that wait on another shard than their ticket';

reset role;
