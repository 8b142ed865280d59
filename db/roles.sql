-- Group roles and the owner of everything. Roles belong to the whole cluster, so they are made only where
-- they are missing: another database of the same cluster may have them already, or be making them right now.
do $$
declare
  v_role text;
  v_may_set_role boolean;
begin
  if current_setting('server_encoding') <> 'UTF8' then
    raise exception using errcode = 'TK900',
      message = format('the database encoding is %s, Farebox needs UTF8', current_setting('server_encoding')),
      hint = 'create the database with: create database farebox encoding ''UTF8'' template template0';
  end if;

  foreach v_role in array array['farebox_owner', 'farebox_app', 'farebox_worker', 'farebox_company', 'farebox_admin'] loop
    if not exists (select from pg_catalog.pg_roles as r where r.rolname = v_role) then
      begin
        execute format('create role %I nologin', v_role);
      exception when duplicate_object or unique_violation then
        null;  -- the other database won the race; the role is there
      end;
    end if;
  end loop;

  -- Whoever migrates must be able to act as the owner. Since PostgreSQL 16 the creator of a role may grant it
  -- but is no full member yet, so the membership is asked for and, if it is missing, granted.
  v_may_set_role := pg_has_role(current_user, 'farebox_owner',
    case when current_setting('server_version_num')::int >= 160000 then 'SET' else 'MEMBER' end);
  if not v_may_set_role then
    execute format('grant farebox_owner to %I', current_user);
  end if;
end
$$;
