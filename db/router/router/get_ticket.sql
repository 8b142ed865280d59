-- Purpose: as db/functions/get_ticket.sql: of one shard where the company is named, else of all, one after the other.
-- Raises: 57P03 when a shard that may have the ticket is lost.
set role farebox_owner;

create or replace function farebox.get_ticket(p_ticket_id uuid, p_company_id uuid default null)
returns setof farebox.ticket_view
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
declare
  v_message text;
  v_detail text;
  v_hint text;
  v_at int;
begin
  for v_at in
    select distinct p.at from farebox.partitions as p
    where p_company_id is null or p.partition = farebox._partition_of(p_company_id::text)
    order by p.at
  loop
    -- A ticket of a partition that is just moving may be on two shards: the map tells which of them counts.
    return query
      select t.* from farebox._at_get_ticket(v_at, p_ticket_id, p_company_id) as t
      where exists (
        select from farebox.partitions as p where p.partition = farebox._partition_of(t.company_id::text) and p.at = v_at);
    exit when found;
  end loop;
exception when others then
  get stacked diagnostics v_message = message_text, v_detail = pg_exception_detail, v_hint = pg_exception_hint;
  perform farebox._raise_from_shard(sqlstate, v_message, v_detail, v_hint);
  raise;
end
$$;

reset role;
