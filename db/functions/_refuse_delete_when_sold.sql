-- Purpose: what a ticket names cannot be deleted. In place of foreign keys on tickets, which would lock the same few rows for each ticket.
-- Raises: 23503; TK004 unless READ COMMITTED: an older snapshot would not see the latest tickets.
-- Locks: tickets (share), before any row: create_tickets takes its lock on the table before it reads, so one waits for the other.
set role farebox_owner;

create function farebox._refuse_delete_when_sold()
returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
declare
  v_is_sold boolean;
begin
  if tg_level = 'STATEMENT' then
    if current_setting('transaction_isolation') not like 'read %' then
      raise exception using errcode = 'TK004',
        message = format('rows of %s cannot be deleted in isolation level %s', tg_table_name, current_setting('transaction_isolation')),
        hint = 'delete them in a transaction of isolation level read committed';
    end if;
    lock table farebox.tickets in share mode;
    return null;
  end if;

  if tg_table_name = 'routes' then
    v_is_sold := exists (select from farebox.tickets as t where t.company_id = old.company_id and t.route_id = old.id);
  else
    v_is_sold := old.used_tickets > 0;
  end if;
  if v_is_sold then
    raise exception using errcode = 'foreign_key_violation',
      message = format('%s of %s is named by tickets', old.id, tg_table_name),
      hint = case when tg_table_name = 'routes' then 'set its status to inactive instead' else 'cancel it instead' end;
  end if;
  return old;
end
$$;

comment on function farebox._refuse_delete_when_sold() is 'Trigger: routes and payment codes that tickets name cannot be deleted';

create trigger routes_lock_tickets before delete on farebox.routes
for each statement execute function farebox._refuse_delete_when_sold();
create trigger routes_with_tickets_stay before delete on farebox.routes
for each row execute function farebox._refuse_delete_when_sold();
create trigger payment_codes_lock_tickets before delete on farebox.payment_codes
for each statement execute function farebox._refuse_delete_when_sold();
create trigger payment_codes_with_tickets_stay before delete on farebox.payment_codes
for each row execute function farebox._refuse_delete_when_sold();

comment on trigger routes_lock_tickets on farebox.routes is 'No ticket is created while routes are deleted';
comment on trigger routes_with_tickets_stay on farebox.routes is 'A route that tickets name cannot be deleted';
comment on trigger payment_codes_lock_tickets on farebox.payment_codes is 'No ticket is created while payment codes are deleted';
comment on trigger payment_codes_with_tickets_stay on farebox.payment_codes is 'A payment code that tickets name cannot be deleted';

reset role;
