-- Purpose: one company.
-- Returns: the company, or no row.
set role farebox_owner;

create function farebox.get_company(p_company_id uuid)
returns setof farebox.companies
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
-- As create_tickets: the plans must not hang on statistics.
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
begin
  return query select c.* from farebox.companies as c where c.id = p_company_id;
end
$$;

comment on function farebox.get_company(uuid) is
  'One company';

reset role;
