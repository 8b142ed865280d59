-- Undoes 0001.create-schema. Made from db/ by tests/tools/freeze_migrations.py; see README.md here.

set role farebox_owner;
drop type farebox._ticket_request;
drop type farebox.violation;
drop type farebox.ticket_view;
drop type farebox.catalog_outcome;
drop type farebox.ticket_outcome;
drop function farebox._uuid_v7();
drop function farebox._now();
alter default privileges for role farebox_owner grant usage on types to public;
alter default privileges for role farebox_owner grant execute on functions to public;
drop schema farebox;
reset role;

do $$
declare
  v_roles constant text[] := array[
    'farebox_owner', 'farebox_app', 'farebox_worker', 'farebox_company', 'farebox_admin'];
  v_role text;
  v_members text;
begin
  select string_agg(format('%s in %s', u.rolname, g.rolname), ', ' order by g.rolname, u.rolname)
  into v_members
  from pg_catalog.pg_auth_members as m
  join pg_catalog.pg_roles as g on g.oid = m.roleid
  join pg_catalog.pg_roles as u on u.oid = m.member
  where g.rolname = any(v_roles) and u.rolname <> current_user and u.rolname <> all(v_roles)
    -- Since PostgreSQL 16 whoever created a role may administer it; that alone is no use of it.
    and coalesce(
      (to_jsonb(m) ->> 'set_option')::boolean or (to_jsonb(m) ->> 'inherit_option')::boolean, true);
  if v_members is not null then
    raise notice 'the roles of farebox stay, they have members: %', v_members;
    return;
  end if;
  foreach v_role in array v_roles loop
    execute format('drop role if exists %I', v_role);
  end loop;
exception when dependent_objects_still_exist or insufficient_privilege then
  raise notice 'the roles of farebox stay: %', sqlerrm;
end
$$;
