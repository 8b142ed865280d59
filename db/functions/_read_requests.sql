-- Purpose: the elements of a batch, each with the first reason that speaks against a ticket, by format, company and route (codes: see _look_up_codes).
-- Parameters: p_batch, an array; p_is_clean, it comes from _clean_batch.
-- Returns: the requests in order; whether any that could become a ticket names a code; the payments, with repetitions and nulls.
-- Raises: data exceptions for what cannot be read as it is; the caller cleans the batch then.
set role farebox_owner;

create function farebox._read_requests(p_batch json, p_is_clean boolean,
  out requests farebox._ticket_request[], out has_code boolean, out transaction_ids text[])
language plpgsql volatile security invoker
as $$
declare
  -- One time-ordered id a batch, its last four digits replaced by the ordinal: drawing each by itself would cost as much as
  -- reading the element. What remains random tells batches of the same instant apart.
  v_id_prefix text := left(farebox._batch_id()::text, 32);
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
  )
  select
    coalesce(array_agg(row(
      e.ordinal, e.given_id, e.transaction_id, p.company_id, p.route_id, e.passenger_phone, e.monime_otp, e.payment_code, null, e.amount,
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
      end,
      (v_id_prefix || to_hex(4096 + e.ordinal))::uuid)::farebox._ticket_request order by e.ordinal), '{}'),
    coalesce(bool_or(e.payment_code is not null and p.has_route), false),
    array_agg(e.transaction_id),
    bool_or(e.id_may_be_number)
  into requests, has_code, transaction_ids, v_has_number
  from element as e
  left join place as p on p.given_company = e.given_company and p.given_route = e.given_route;

  -- A number is no UUID: only the slow way of reading can tell.
  if v_has_number and not p_is_clean then
    raise exception using errcode = 'data_exception', message = 'a UUID that may have been a number';
  end if;
end
$$;

comment on function farebox._read_requests(json, boolean) is
  'Internal: the elements of a batch, each with the first reason against a ticket by format, company and route';

reset role;
