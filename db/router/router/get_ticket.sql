-- Purpose: as db/functions/get_ticket.sql: of one shard where the company is named, else of all, one after the other.
-- Raises: 57P03 when it is not found and a shard that may have it is lost.
set role farebox_owner;

create or replace function farebox.get_ticket(p_ticket_id uuid, p_company_id uuid default null)
returns setof farebox.ticket_view
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
declare
  v_sqlstate text;
  v_message text;
  v_at int;
begin
  for v_at in
    select distinct p.at from farebox.partitions as p
    where p_company_id is null or p.partition = farebox._partition_of(p_company_id::text)
    order by p.at
  loop
    begin
      -- A ticket of a partition that is just moving may be on two shards: the map tells which of them counts.
      return query
        select t.* from farebox._at_get_ticket(v_at, p_ticket_id, p_company_id) as t
        where exists (
          select from farebox.partitions as p where p.partition = farebox._partition_of(t.company_id::text) and p.at = v_at);
      if found then
        return;
      end if;
    exception when others or query_canceled then
      perform farebox._skip_lost_shard(sqlstate, sqlerrm);
      v_sqlstate := sqlstate;
      v_message := sqlerrm;
    end;
  end loop;
  if v_sqlstate is not null then
    perform farebox._raise_from_shard(v_sqlstate, v_message, '', '');
  end if;
end
$$;

reset role;
