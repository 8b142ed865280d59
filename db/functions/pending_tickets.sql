-- Purpose: a company's pending tickets, oldest first, a page at a time.
-- Parameters: p_limit, 1 to 1,000; the last row of the page before (created_at and id).
-- Returns: the tickets.  Raises: TK003.
set role farebox_owner;

create function farebox.pending_tickets(p_company_id uuid, p_limit int default 100,
  p_after_created_at timestamptz default null, p_after_id uuid default null)
returns setof farebox.ticket_view
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
-- The same index on an empty database as on a full one: with the status a parameter of a generic plan, nothing can prove that
-- the partial index of all companies' pending tickets would do, which a small company would have to read through.
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
declare
  v_status text := 'pending';
begin
  perform farebox._check_limit(p_limit, 1000);
  return query
    select
      t.id, t.company_id, t.route_id, t.passenger_phone, t.monime_transaction_id, t.monime_otp, t.payment_code_id,
      (select k.code from farebox.payment_codes as k where k.id = t.payment_code_id), t.amount, t.commission_rate, t.status, t.created_at
    from farebox.tickets as t
    where t.company_id = p_company_id and t.status = v_status
      and t.created_at >= coalesce(p_after_created_at, '-infinity')
      and (p_after_created_at is null or (t.created_at, t.id) > (p_after_created_at, p_after_id))
    order by t.created_at, t.id
    limit p_limit;
end
$$;

comment on function farebox.pending_tickets(uuid, int, timestamptz, uuid) is
  'A company''s pending tickets, oldest first, by keyset pages';

reset role;
