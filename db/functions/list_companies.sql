-- Purpose: companies by id, that is by age, a page at a time.
-- Parameters: p_limit, 1 to 1,000; p_after_id, the last id of the page before.  Returns: the companies.  Raises: TK003.
set role farebox_owner;

create function farebox.list_companies(p_limit int default 100, p_after_id uuid default null)
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
  perform farebox._check_limit(p_limit, 1000);
  return query
    select c.* from farebox.companies as c
    where p_after_id is null or c.id > p_after_id
    order by c.id
    limit p_limit;
end
$$;

comment on function farebox.list_companies(int, uuid) is
  'Companies by id, by keyset pages';

reset role;
