-- Purpose: reads a batch and, where that is all there is to it, writes its tickets and records in the same statement.
-- Parameters: p_batch, an array; p_is_clean, it comes from _clean_batch; p_write, tickets may be written at once, which they are when
--   no element names a code to be locked first; p_record, transaction records too; p_now.
-- Returns: the number of elements; whether any names a code; how many tickets were written (null = none was tried); the outcomes, if
--   every element became a ticket; else the requests in order, each with the first reason against it by format and catalog. Reason
--   `known`: it names a code and has its ticket already.
-- Raises: data exceptions for what cannot be read as it is; the caller cleans the batch then.
-- Locks and writes: tickets in the order of the payment, so that callers wait in one direction only; transactions.
set role farebox_owner;

create function farebox._read_requests(p_batch json, p_is_clean boolean, p_write boolean, p_record boolean, p_now timestamptz,
  out elements int, out has_code boolean, out created int, out outcomes farebox.ticket_outcome[],
  out requests farebox._ticket_request[])
language plpgsql volatile security invoker
as $$
declare
  -- One time-ordered id a batch, its last four digits replaced by the ordinal: drawing each by itself would cost as much as
  -- reading the element. What remains random tells batches of the same instant apart.
  v_id_prefix text := left(farebox._uuid_v7()::text, 32);
  v_is_readable boolean;
begin
  with element as materialized (
    select b.* from farebox._parse_batch(p_batch) as b
  ),
  -- A batch names few companies and routes, many times each: they are looked up once. A lateral subquery that cannot be
  -- dissolved (`offset 0`) goes by its index, whatever the statistics say.
  place as materialized (
    select d.company_id, d.route_id, c.id is not null as has_company, c.status as company_status, c.commission_rate,
      r.company_id is not null as has_route, r.status as route_status
    from (select distinct e.company_id, e.route_id from element as e) as d
    left join lateral (
      select c.id, c.status, c.commission_rate from farebox.companies as c where c.id = d.company_id offset 0) as c on true
    left join lateral (
      select r.company_id, r.status from farebox.routes as r where r.id = d.route_id offset 0) as r on r.company_id = d.company_id
  ),
  request as materialized (
    select
      e.ordinal, e.given_id,
      case when length(e.transaction_id) between 1 and 64 then e.transaction_id end as transaction_id,
      e.company_id, e.route_id, e.passenger_phone, e.monime_otp, e.payment_code, k.id as payment_code_id, e.amount,
      coalesce(e.rate, p.commission_rate) as commission_rate,
      case
        when (length(e.transaction_id) between 1 and 64) is not true then 'transaction_id_invalid'
        when e.company_id is null then 'company_id_invalid'
        when e.route_id is null then 'route_id_invalid'
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
        when k.route_id <> e.route_id then 'code_route_mismatch'
        when t.id is not null then 'known'
        else farebox._code_refusal(k.status, k.used_tickets, k.total_tickets, k.expires_at, p_now)
      end as reason,
      (v_id_prefix || lpad(to_hex(e.ordinal), 4, '0'))::uuid as ticket_id
    from element as e
    left join place as p on p.company_id = e.company_id and p.route_id = e.route_id
    left join lateral (
      select k.id, k.company_id, k.route_id, k.status, k.used_tickets, k.total_tickets, k.expires_at
      from farebox.payment_codes as k where k.code = e.payment_code offset 0) as k on k.company_id = e.company_id
    -- Only what would charge a code is looked up beforehand: a retry must not queue for the lock of its code.
    left join lateral (
      select t.id from farebox.tickets as t
      where t.monime_transaction_id = case when k.id is not null then e.transaction_id end offset 0) as t on true
  ),
  batch as materialized (
    select
      count(*)::int as elements,
      coalesce(bool_or(r.payment_code_id is not null), false) as has_code,
      -- A UUID of digits only may have been a JSON number, which is no UUID: only the slow way of reading can tell.
      p_is_clean or not coalesce((
        select bool_or(d.company_id::text collate "C" !~ '[a-f]' or d.route_id::text collate "C" !~ '[a-f]')
        from place as d), false) as is_readable
    from request as r
  ),
  created as (
    insert into farebox.tickets (id, company_id, route_id, amount, created_at, commission_rate,
      monime_transaction_id, passenger_phone, monime_otp)
    select distinct on (r.transaction_id)
      r.ticket_id, r.company_id, r.route_id, r.amount, p_now, r.commission_rate,
      r.transaction_id, r.passenger_phone, r.monime_otp
    from request as r
    where r.reason is null
      and (select p_write and b.is_readable and not b.has_code and b.elements <= 10000 from batch as b)
    order by r.transaction_id, r.ordinal
    on conflict (monime_transaction_id) do nothing
    returning id, company_id, amount, commission_rate
  ),
  recorded as (
    insert into farebox.transactions (ticket_id, company_id, amount, commission, net_amount, created_at)
    select c.id, c.company_id, c.amount, m.commission, c.amount - m.commission, p_now
    from created as c
    cross join lateral (select farebox._commission(c.amount, c.commission_rate) as commission) as m
    where p_record
  ),
  written as materialized (
    select count(*)::int as tickets from created
  )
  select
    b.elements,
    b.has_code,
    b.is_readable,
    case when p_write and not b.has_code then w.tickets end,
    case when w.tickets = b.elements then (
      select array_agg(row(r.ordinal, r.given_id, 'created', null, r.ticket_id, null, null, p_record)::farebox.ticket_outcome
        order by r.ordinal)
      from request as r) end,
    case when w.tickets < b.elements then (
      select array_agg(row(r.ordinal, r.given_id, r.transaction_id, r.company_id, r.route_id, r.passenger_phone, r.monime_otp,
        r.payment_code, r.payment_code_id, r.amount, r.commission_rate, r.reason, r.ticket_id)::farebox._ticket_request
        order by r.ordinal)
      from request as r) end
  into elements, has_code, v_is_readable, created, outcomes, requests
  from batch as b, written as w;

  if not v_is_readable then
    raise exception using errcode = 'data_exception', message = 'a UUID of digits only';
  end if;
end
$$;

comment on function farebox._read_requests(json, boolean, boolean, boolean, timestamptz) is
  'Internal: reads a batch, each element with the first reason against a ticket; writes the tickets if nothing else is to be done before';

reset role;
