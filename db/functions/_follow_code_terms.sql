-- Purpose: the status of a code follows its limit and its end: lowered to what is used it is spent; a code that was spent, or whose time
--   was over, sells again once it has uses and time left. A code that was expired or cancelled by hand stays so.
-- Returns: the row.  Fires before a code is inserted or its total_tickets or expires_at is set, or a spent one is called active; charging a
--   code sets its status itself.
set role farebox_owner;

create function farebox._follow_code_terms()
returns trigger
language plpgsql security invoker
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
begin
  if new.status = 'active' and new.used_tickets >= new.total_tickets then
    new.status := 'expired';
  elsif tg_op = 'UPDATE' and new.status = 'expired' and old.status = 'expired'
    and (old.used_tickets >= old.total_tickets or old.expires_at <= farebox._now())
    and new.used_tickets < new.total_tickets and (new.expires_at > farebox._now()) is not false
  then
    new.status := 'active';
  end if;
  return new;
end
$$;

comment on function farebox._follow_code_terms() is 'Trigger: the status of a payment code follows its limit and its end';

create trigger payment_codes_status_follows_terms
before insert or update of total_tickets, expires_at on farebox.payment_codes
for each row execute function farebox._follow_code_terms();
comment on trigger payment_codes_status_follows_terms on farebox.payment_codes is 'The status of a code follows its limit and its end';

-- Charging a code sets its status too, so the condition stands outside of the function: a charge never meets it.
create trigger payment_codes_spent_is_not_active
before update of status on farebox.payment_codes
for each row when (new.status = 'active' and new.used_tickets >= new.total_tickets)
execute function farebox._follow_code_terms();
comment on trigger payment_codes_spent_is_not_active on farebox.payment_codes is 'A spent code cannot be called active by hand';

reset role;
