-- Purpose: as db/functions/bind_company_login.sql, on the company's shard: there the login reads its company's tables, not on the router.
-- Raises: 42704, 23503; 57P03.
set role farebox_owner;

create or replace function farebox.bind_company_login(p_login name, p_company_id uuid)
returns void
language plpgsql volatile security definer
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
    perform farebox._at_bind_company_login(v_at, p_login, p_company_id);
  end loop;
exception when others then
  get stacked diagnostics v_message = message_text, v_detail = pg_exception_detail, v_hint = pg_exception_hint;
  perform farebox._raise_from_shard(sqlstate, v_message, v_detail, v_hint);
  raise;
end
$$;

reset role;
