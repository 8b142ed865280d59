-- Purpose: as db/functions/_own_requests.sql: refuses payments that were given up to another shard's company, and raises for
--   companies whose partition is on its way (what a worker took from the queue is put back).
-- Raises: 55P03.  Locks: own_partitions, ROW SHARE: a payment given up later has no ticket in the making here.
set role farebox_owner;

create or replace function farebox._own_requests(p_requests farebox._ticket_request[])
returns farebox._ticket_request[]
language plpgsql volatile security invoker
as $$
declare
  v_requests farebox._ticket_request[] := p_requests;
  v_ordinal int;
begin
  lock table farebox.own_partitions in row share mode;
  if exists (select from farebox.own_partitions as o where not o.is_open or o.fenced_until > clock_timestamp()) then
    perform farebox._require_open(array(
      select distinct farebox._partition_of(c.company_id::text)
      from (
        select distinct r.company_id from unnest(p_requests) as r
        where exists (select from farebox.companies as c where c.id = r.company_id)) as c));
  end if;

  if exists (select from farebox.foreign_subjects) then
    -- A loop over the few that were given up.
    for v_ordinal in
      select r.ordinal
      from unnest(p_requests) as r
      cross join lateral (
        select from farebox.foreign_subjects as f
        where f.subject = r.transaction_id and f.kind = 'p' and f.company_id = r.company_id offset 0) as f
    loop
      v_requests[v_ordinal].reason := 'transaction_id_unavailable';
    end loop;
  end if;
  return v_requests;
end
$$;

reset role;
