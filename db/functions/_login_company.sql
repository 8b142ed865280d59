-- Purpose: the company that the current login may read; the policies of row-level security ask it once a statement.
-- Returns: the company the login is bound to; for a login that is not bound, the one named by the setting farebox.company_id; else null.
--   Both the login and a role it has taken with SET ROLE may be bound: the login's binding wins, and no setting overrides either.
set role farebox_owner;

create function farebox._login_company()
returns uuid
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
declare
  v_company_id uuid;
begin
  select l.company_id into v_company_id
  from farebox.company_logins as l
  where l.login in (session_user, current_setting('role'))
  order by l.login = session_user desc
  limit 1;
  return coalesce(v_company_id, farebox._uuid(current_setting('farebox.company_id', true)));
end
$$;

comment on function farebox._login_company() is 'The only company that the current login may read; null = none';

reset role;
