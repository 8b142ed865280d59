-- Purpose: one route of a company.
-- Returns: the route, or no row; none when it is another company's.
set role farebox_owner;

create function farebox.get_route(p_company_id uuid, p_route_id uuid)
returns setof farebox.routes
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
-- As create_tickets: the plans must not hang on statistics.
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
begin
  return query select r.* from farebox.routes as r where r.id = p_route_id and r.company_id = p_company_id;
end
$$;

comment on function farebox.get_route(uuid, uuid) is
  'One route of a company';

reset role;
