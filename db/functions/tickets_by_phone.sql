-- Purpose: a passenger's tickets at one company, newest first, a page at a time.
-- Parameters: p_phone, in any form a payment may have it; p_limit, 1 to 1,000; the last row of the page before (created_at and id).
-- Returns: the tickets.  Raises: TK003.
set role farebox_owner;

create function farebox.tickets_by_phone(p_company_id uuid, p_phone text, p_limit int default 50,
  p_before_created_at timestamptz default null, p_before_id uuid default null)
returns setof farebox.ticket_view
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
-- The same index on an empty database as on a full one.
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
begin
  perform farebox._check_limit(p_limit, 1000);
  return query
    select
      t.id, t.company_id, t.route_id, t.passenger_phone, t.monime_transaction_id, t.monime_otp, t.payment_code_id,
      (select k.code from farebox.payment_codes as k where k.id = t.payment_code_id), t.amount, t.commission_rate, t.status, t.created_at
    -- A passenger has few tickets, so the phone alone finds them: asked for the company too, a planner with wrong statistics
    -- might read all of the company's tickets instead.
    from (select t.* from farebox.tickets as t where t.passenger_phone = farebox._phone(p_phone) offset 0) as t
    where t.company_id = p_company_id
      and (p_before_created_at is null or (t.created_at, t.id) < (p_before_created_at, p_before_id))
    order by t.created_at desc, t.id desc
    limit p_limit;
end
$$;

comment on function farebox.tickets_by_phone(uuid, text, int, timestamptz, uuid) is
  'A passenger''s tickets at one company, newest first, by keyset pages';

reset role;
