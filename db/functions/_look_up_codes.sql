-- Purpose: finds the payment codes that requests name, and judges them as they stand.
-- Parameters: p_requests in order; p_is_new, none of their payments had a ticket a moment ago; p_is_again, a first attempt was taken
--   back: then payments without a code are looked up too, because it must be known how many tickets there will be; p_now.
-- Returns: the requests, with the code or the reason why it cannot be charged; reason `known`: the payment has its ticket already.
--   The codes and their uses, by id, if every candidate becomes a ticket; whether that is more than is left of one: see _allocate_codes.
set role farebox_owner;

create function farebox._look_up_codes(p_requests farebox._ticket_request[], p_is_new boolean, p_is_again boolean, p_now timestamptz,
  out requests farebox._ticket_request[], out codes uuid[], out uses int[], out runs_out boolean)
language plpgsql volatile security invoker
as $$
begin
  -- A batch names few codes, many times each: they are looked up once.
  with code as materialized (
    select d.payment_code, k.*
    from (select distinct r.payment_code from unnest(p_requests) as r where r.reason is null and r.payment_code is not null) as d
    cross join lateral (
      select k.id, k.company_id, k.route_id, k.total_tickets - k.used_tickets as uses_left,
        farebox._code_refusal(k.status, k.used_tickets, k.total_tickets, k.expires_at, p_now) as refusal
      from farebox.payment_codes as k where k.code = d.payment_code offset 0) as k
  ),
  request as materialized (
    select
      r.ordinal, r.given_id, r.transaction_id, r.company_id, r.route_id, r.passenger_phone, r.monime_otp, r.payment_code,
      k.id as code_id, k.uses_left, r.amount, r.commission_rate, r.ticket_id,
      case
        when r.reason is not null then r.reason
        when not p_is_new and (p_is_again or r.payment_code is not null)
          and (select t.id from farebox.tickets as t where t.monime_transaction_id = r.transaction_id) is not null then 'known'
        when r.payment_code is null then null
        when k.id is null then 'code_not_found'
        when k.route_id <> r.route_id then 'code_route_mismatch'
        else k.refusal
      end as reason
    from unnest(p_requests) as r
    left join code as k on k.payment_code = r.payment_code and k.company_id = r.company_id
  )
  select judged.requests, demand.codes, demand.uses, coalesce(demand.runs_out, false)
  into requests, codes, uses, runs_out
  from (
    select
      array_agg(row(
        r.ordinal, r.given_id, r.transaction_id, r.company_id, r.route_id, r.passenger_phone, r.monime_otp, r.payment_code, r.code_id,
        r.amount, r.commission_rate, r.reason, r.ticket_id)::farebox._ticket_request order by r.ordinal) as requests
    from request as r
  ) as judged
  cross join (
    -- Repetitions of a payment count each: they would only lead to the careful way for nothing.
    select
      array_agg(d.code_id order by d.code_id) as codes, array_agg(d.uses order by d.code_id) as uses,
      bool_or(d.uses > d.uses_left) as runs_out
    from (
      select r.code_id, count(*)::int as uses, min(r.uses_left) as uses_left
      from request as r
      where r.reason is null and r.code_id is not null
      group by r.code_id
    ) as d
  ) as demand;
end
$$;

comment on function farebox._look_up_codes(farebox._ticket_request[], boolean, boolean, timestamptz) is
  'Internal: the payment codes that requests name, each judged as it stands';

reset role;
