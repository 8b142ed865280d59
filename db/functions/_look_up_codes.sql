-- Purpose: finds the payment codes that requests name, and judges them as they stand.
-- Parameters: p_requests in order; p_is_new, none of their payments had a ticket a moment ago; p_now.
-- Returns: the requests, with the code or the reason why it cannot be charged; reason `known`: the payment has its ticket already.
set role farebox_owner;

create function farebox._look_up_codes(p_requests farebox._ticket_request[], p_is_new boolean, p_now timestamptz)
returns farebox._ticket_request[]
language plpgsql volatile security invoker
as $$
declare
  v_requests farebox._ticket_request[];
begin
  -- A batch names few codes, many times each: they are looked up once.
  with code as materialized (
    select d.payment_code, k.*
    from (select distinct r.payment_code from unnest(p_requests) as r where r.reason is null and r.payment_code is not null) as d
    cross join lateral (
      select k.id, k.company_id, k.route_id, farebox._code_refusal(k.status, k.used_tickets, k.total_tickets, k.expires_at, p_now) as refusal
      from farebox.payment_codes as k where k.code = d.payment_code offset 0) as k
  )
  select
    array_agg(row(
      r.ordinal, r.given_id, r.transaction_id, r.company_id, r.route_id, r.passenger_phone, r.monime_otp, r.payment_code, r.code_id,
      r.amount, r.commission_rate, r.reason, r.ticket_id)::farebox._ticket_request order by r.ordinal)
  into v_requests
  from (
    select
      r.ordinal, r.given_id, r.transaction_id, r.company_id, r.route_id, r.passenger_phone, r.monime_otp, r.payment_code,
      k.id as code_id, r.amount, r.commission_rate, r.ticket_id,
      case
        when r.reason is not null then r.reason
        when not p_is_new
          and (select t.id from farebox.tickets as t where t.monime_transaction_id = r.transaction_id) is not null then 'known'
        when r.payment_code is null then null
        when k.id is null then 'code_not_found'
        when k.route_id <> r.route_id then 'code_route_mismatch'
        else k.refusal
      end as reason
    from unnest(p_requests) as r
    left join code as k on k.payment_code = r.payment_code and k.company_id = r.company_id
    offset 0
  ) as r;
  return v_requests;
end
$$;

comment on function farebox._look_up_codes(farebox._ticket_request[], boolean, timestamptz) is
  'Internal: the payment codes that requests name, each judged as it stands';

reset role;
