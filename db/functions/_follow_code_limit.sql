-- Purpose: the status of a code follows its limit: lowered to what is used it is spent, raised above it a spent code sells again.
-- Returns: the row.  Fires before a code is inserted or its total_tickets is set; charging a code sets its status itself.
set role farebox_owner;

create function farebox._follow_code_limit()
returns trigger
language plpgsql security invoker
set search_path = pg_catalog, pg_temp
as $$
begin
  if new.status = 'active' and new.used_tickets >= new.total_tickets then
    new.status := 'expired';
  elsif tg_op = 'UPDATE' and new.status = 'expired' and old.status = 'expired'
    and old.used_tickets >= old.total_tickets and new.used_tickets < new.total_tickets
    and (new.expires_at > farebox._now()) is not false
  then
    new.status := 'active';
  end if;
  return new;
end
$$;

comment on function farebox._follow_code_limit() is 'Trigger: the status of a payment code follows its limit';

create trigger payment_codes_status_follows_limit
before insert or update of total_tickets on farebox.payment_codes
for each row execute function farebox._follow_code_limit();
comment on trigger payment_codes_status_follows_limit on farebox.payment_codes is 'The status of a code follows its limit';

reset role;
