-- Purpose: one payment code of a company.
-- Parameters: p_code, trimmed.  Returns: the code, or no row; none when it is another company's.
set role farebox_owner;

create function farebox.get_payment_code(p_company_id uuid, p_code text)
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
  return query
    select k.* from farebox.payment_codes as k
    where k.code = farebox._trimmed(p_code) and k.company_id = p_company_id;
end
$$;

comment on function farebox.get_payment_code(uuid, text) is
  'One payment code of a company';

reset role;
