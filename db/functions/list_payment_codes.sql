-- Purpose: a company's payment codes by id, that is by age, a page at a time.
-- Parameters: p_limit, 1 to 1,000; p_after_id, the last id of the page before.  Returns: the payment codes.  Raises: TK003.
set role farebox_owner;

create function farebox.list_payment_codes(p_company_id uuid, p_limit int default 100, p_after_id uuid default null)
returns setof farebox.payment_codes
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
    select k.* from farebox.payment_codes as k
    where k.company_id = p_company_id and (p_after_id is null or k.id > p_after_id)
    order by k.id
    limit p_limit;
end
$$;

comment on function farebox.list_payment_codes(uuid, int, uuid) is
  'A company''s payment codes by id, by keyset pages';

reset role;
