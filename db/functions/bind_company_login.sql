-- Purpose: binds a database login to the one company it may read. The login must exist and be in farebox_company to use it.
-- Parameters: p_login, a role; p_company_id, null = unbind.  Returns: nothing.  Raises: 42704 no such role, 23503 no such company.
set role farebox_owner;

create function farebox.bind_company_login(p_login name, p_company_id uuid)
returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
-- As create_tickets: the plans must not hang on statistics.
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
begin
  if p_company_id is null then
    delete from farebox.company_logins as l where l.login = p_login;
    return;
  end if;
  if not exists (select from pg_roles as r where r.rolname = p_login) then
    raise exception using errcode = 'undefined_object',
      message = format('there is no role %s', quote_ident(p_login)),
      hint = format('create it first: create role %s login in role farebox_company', quote_ident(p_login));
  end if;
  insert into farebox.company_logins as l (login, company_id) values (p_login, p_company_id)
  on conflict (login) do update set company_id = excluded.company_id;
end
$$;

comment on function farebox.bind_company_login(name, uuid) is
  'Binds a database login to the company it may read; null unbinds it';

reset role;
