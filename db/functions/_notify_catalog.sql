-- Purpose: tells the drivers' caches which companies' catalog has changed.
-- Channel farebox_catalog, payload: the company's id, or * for everything. A hint: caches also forget by time.
set role farebox_owner;

create function farebox._notify_catalog()
returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
begin
  if tg_op = 'TRUNCATE' then
    perform pg_notify('farebox_catalog', '*');
  elsif tg_level = 'ROW' then
    perform pg_notify('farebox_catalog', old.company_id::text);
  elsif (select count(*) from old_rows) > 100 then
    perform pg_notify('farebox_catalog', '*');
  elsif tg_table_name = 'companies' then
    perform pg_notify('farebox_catalog', o.id::text) from old_rows as o;
  else
    perform pg_notify('farebox_catalog', o.company_id::text) from (select distinct o.company_id from old_rows as o) as o;
  end if;
  return null;
end
$$;

comment on function farebox._notify_catalog() is 'Trigger: tells caches which companies'' catalog has changed';

create trigger companies_notify_update after update on farebox.companies
referencing old table as old_rows for each statement execute function farebox._notify_catalog();
create trigger companies_notify_delete after delete on farebox.companies
referencing old table as old_rows for each statement execute function farebox._notify_catalog();
create trigger companies_notify_truncate after truncate on farebox.companies
for each statement execute function farebox._notify_catalog();
create trigger routes_notify_update after update on farebox.routes
referencing old table as old_rows for each statement execute function farebox._notify_catalog();
create trigger routes_notify_delete after delete on farebox.routes
referencing old table as old_rows for each statement execute function farebox._notify_catalog();
create trigger routes_notify_truncate after truncate on farebox.routes
for each statement execute function farebox._notify_catalog();
create trigger payment_codes_notify_delete after delete on farebox.payment_codes
referencing old table as old_rows for each statement execute function farebox._notify_catalog();
create trigger payment_codes_notify_truncate after truncate on farebox.payment_codes
for each statement execute function farebox._notify_catalog();
-- Charging a code must not notify, not even the use that spends it: a pending NOTIFY makes commits queue for one lock.
create trigger payment_codes_notify_update after update on farebox.payment_codes
for each row
when (new.used_tickets = old.used_tickets and new is distinct from old)
execute function farebox._notify_catalog();

comment on trigger companies_notify_update on farebox.companies is 'Tells caches that companies changed';
comment on trigger companies_notify_delete on farebox.companies is 'Tells caches that companies are gone';
comment on trigger companies_notify_truncate on farebox.companies is 'Tells caches that all companies are gone';
comment on trigger routes_notify_update on farebox.routes is 'Tells caches that routes changed';
comment on trigger routes_notify_delete on farebox.routes is 'Tells caches that routes are gone';
comment on trigger routes_notify_truncate on farebox.routes is 'Tells caches that all routes are gone';
comment on trigger payment_codes_notify_update on farebox.payment_codes is 'Tells caches that a code changed otherwise than by being charged';
comment on trigger payment_codes_notify_delete on farebox.payment_codes is 'Tells caches that codes are gone';
comment on trigger payment_codes_notify_truncate on farebox.payment_codes is 'Tells caches that all codes are gone';

reset role;
