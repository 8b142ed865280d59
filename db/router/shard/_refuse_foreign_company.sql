-- Purpose: a shard refuses a company that is not its own; everything else hangs on the company.
-- Raises: TK006.  Replication of a partition that is on its way here is not asked (the trigger does not fire for it).
set role farebox_owner;

create or replace function farebox._refuse_foreign_company()
returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
begin
  if not farebox._own_partition(new.id) then
    raise exception using errcode = 'TK006',
      message = format('company %s does not belong on this shard', new.id),
      detail = format('it is of partition %s', farebox._partition_of(new.id::text)),
      hint = 'connect to the router';
  end if;
  return new;
end
$$;

comment on function farebox._refuse_foreign_company() is 'Trigger: a shard refuses a company that is not its own';

drop trigger if exists companies_refuse_foreign on farebox.companies;
create trigger companies_refuse_foreign before insert or update of id on farebox.companies
for each row execute function farebox._refuse_foreign_company();
comment on trigger companies_refuse_foreign on farebox.companies is 'A shard refuses a company that is not its own';

reset role;
