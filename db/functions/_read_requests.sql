-- Purpose: the elements of a batch, each with the first reason that speaks against a ticket, by format and catalog.
-- Parameters: p_batch, an array; p_is_clean, it comes from _clean_batch; p_now.
-- Returns: the requests in order; whether any names a code. Reason `known`: it names a code and has its ticket already.
-- Raises: data exceptions for what cannot be read as it is; the caller cleans the batch then.
set role farebox_owner;

create function farebox._read_requests(p_batch json, p_is_clean boolean, p_now timestamptz,
  out requests farebox._ticket_request[], out has_code boolean)
language plpgsql volatile security invoker
as $$
declare
  -- One time-ordered id a batch, its last four digits replaced by the ordinal: drawing each by itself would cost as much as
  -- reading the element. What remains random tells batches of the same instant apart.
  v_id_prefix text := left(farebox._uuid_v7()::text, 32);
  v_has_number boolean;
begin
  with element as materialized (
    select b.ordinal, b.given_id, case when length(b.transaction_id) between 1 and 64 then b.transaction_id end as transaction_id,
      b.given_company, b.given_route, b.id_may_be_number, b.passenger_phone, b.monime_otp, b.payment_code, b.amount,
      b.rate_given, b.rate
    from farebox._parse_batch(p_batch) as b
  ),
  -- A batch names few companies and routes, many times each: they are read and looked up once. A lateral subquery that cannot be
  -- dissolved (`offset 0`) goes by its index, whatever the statistics say.
  place as materialized (
    select d.given_company, d.given_route, d.company_id, d.route_id, c.status as company_status, c.commission_rate,
      c.id is not null as has_company, r.company_id is not null as has_route, r.status as route_status
    from (
      select e.given_company, e.given_route, nullif(e.given_company, '')::uuid as company_id, nullif(e.given_route, '')::uuid as route_id
      from (select distinct e.given_company, e.given_route from element as e) as e
      offset 0) as d
    left join lateral (
      select c.id, c.status, c.commission_rate from farebox.companies as c where c.id = d.company_id offset 0) as c on true
    left join lateral (
      select r.company_id, r.status from farebox.routes as r where r.id = d.route_id offset 0) as r on r.company_id = d.company_id
  ),
  code as materialized (
    select d.payment_code, k.*
    from (select distinct e.payment_code from element as e where e.payment_code is not null) as d
    cross join lateral (
      select k.id, k.company_id, k.route_id, k.status, k.used_tickets, k.total_tickets, k.expires_at
      from farebox.payment_codes as k where k.code = d.payment_code offset 0) as k
  )
  select
    coalesce(array_agg(row(
      e.ordinal, e.given_id, e.transaction_id, p.company_id, p.route_id, e.passenger_phone, e.monime_otp, e.payment_code, k.id, e.amount,
      coalesce(e.rate, p.commission_rate),
      case
        when e.transaction_id is null then 'transaction_id_invalid'
        when p.company_id is null then 'company_id_invalid'
        when p.route_id is null then 'route_id_invalid'
        when e.passenger_phone is null then 'phone_invalid'
        when e.monime_otp is null then 'otp_invalid'
        when e.amount is null then 'amount_invalid'
        when e.rate_given and e.rate is null then 'commission_rate_invalid'
        when not p.has_company then 'company_not_found'
        when p.company_status <> 'active' then 'company_suspended'
        when not p.has_route then 'route_not_found'
        when p.route_status <> 'active' then 'route_inactive'
        when e.payment_code is null then null
        when k.id is null then 'code_not_found'
        when k.route_id <> p.route_id then 'code_route_mismatch'
        -- Only what would charge a code is looked up beforehand: a retry must not queue for the lock of its code.
        when (select t.id from farebox.tickets as t where t.monime_transaction_id = e.transaction_id) is not null then 'known'
        else farebox._code_refusal(k.status, k.used_tickets, k.total_tickets, k.expires_at, p_now)
      end,
      (v_id_prefix || to_hex(4096 + e.ordinal))::uuid)::farebox._ticket_request order by e.ordinal), '{}'),
    coalesce(bool_or(k.id is not null), false),
    bool_or(e.id_may_be_number)
  into requests, has_code, v_has_number
  from element as e
  left join place as p on p.given_company = e.given_company and p.given_route = e.given_route
  left join code as k on k.payment_code = e.payment_code and k.company_id = p.company_id;

  -- A number is no UUID: only the slow way of reading can tell.
  if v_has_number and not p_is_clean then
    raise exception using errcode = 'data_exception', message = 'a UUID that may have been a number';
  end if;
end
$$;

comment on function farebox._read_requests(json, boolean, timestamptz) is
  'Internal: the elements of a batch, each with the first reason against a ticket';

reset role;
