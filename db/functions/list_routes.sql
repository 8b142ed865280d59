-- Purpose: a company's routes by id, that is by age, a page at a time.
-- Parameters: p_limit, 1 to 1,000; p_after_id, the last id of the page before.  Returns: the routes.  Raises: TK003.
set role farebox_owner;

create function farebox.list_routes(p_company_id uuid, p_limit int default 100, p_after_id uuid default null)
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
  perform farebox._check_limit(p_limit, 1000);
  return query
    select r.* from farebox.routes as r
    where r.company_id = p_company_id and (p_after_id is null or r.id > p_after_id)
    order by r.id
    limit p_limit;
end
$$;

comment on function farebox.list_routes(uuid, int, uuid) is
  'A company''s routes by id, by keyset pages';

reset role;
