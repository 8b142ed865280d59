-- Purpose: the elements of a batch, normalised, each with the first reason that speaks against a ticket, by format and catalog.
-- Parameters: p_batch, an array; p_now.
-- Returns: the requests in order; whether any names a code; whether an open unapplied payment is among them. Reason `known`: it carries a code and has its ticket already.
-- Raises: data exceptions for what json_to_recordset cannot read; the caller cleans the batch then.
set role farebox_owner;

create function farebox._read_requests(p_batch json, p_now timestamptz,
  out requests farebox._ticket_request[], out has_code boolean, out has_unapplied boolean)
language plpgsql volatile security invoker
as $$
declare
  -- One time-ordered id a batch, its last four digits replaced by the ordinal: drawing each by itself would cost as much as
  -- reading the element. What remains random tells batches of the same instant apart.
  v_id_prefix text := left(farebox._uuid_v7()::text, 32);
begin
  -- `materialized` and `offset 0` keep the planner from dissolving a step into the next one, where each use would compute
  -- its columns again. A lateral subquery that cannot be dissolved goes by its index, whatever the statistics say.
  with field as materialized (
    select
      x.ordinal::int as ordinal,
      x.monime_transaction_id #>> '{}' as given_id,
      json_typeof(x.monime_transaction_id) = 'string' as is_text,
      x.company_id,
      x.route_id,
      x.passenger_phone,
      case when json_typeof(x.monime_otp) = 'string' then x.monime_otp #>> '{}' end as monime_otp,
      -- A code of another JSON type is not absent: a blank stands for it, a code that cannot exist.
      case json_typeof(x.payment_code) when 'string' then nullif(farebox._trimmed(x.payment_code #>> '{}'), '') else
        case when json_typeof(x.payment_code) <> 'null' then ' ' end end as payment_code,
      x.amount,
      x.commission_rate
    from rows from (json_to_recordset(p_batch) as (
      company_id uuid, route_id uuid, passenger_phone text, monime_transaction_id json, monime_otp json,
      amount text, commission_rate text, payment_code json)) with ordinality
      as x(company_id, route_id, passenger_phone, monime_transaction_id, monime_otp, amount, commission_rate, payment_code, ordinal)
  ),
  element as (
    select
      f.ordinal,
      f.given_id,
      case when f.is_text then farebox._trimmed(f.given_id) end as transaction_id,
      f.company_id,
      f.route_id,
      farebox._phone(f.passenger_phone) as passenger_phone,
      farebox._trimmed(f.monime_otp) as monime_otp,
      f.payment_code,
      farebox._amount(f.amount) as amount,
      f.commission_rate is not null as rate_given,
      farebox._number(f.commission_rate, 0, 1, 4) as rate
    from field as f
    offset 0
  ),
  -- A batch names few companies and routes, many times each: they are looked up once.
  place as (
    select d.company_id, d.route_id, c.id is not null as has_company, c.status as company_status, c.commission_rate,
      r.company_id is not null as has_route, r.status as route_status
    from (select distinct f.company_id, f.route_id from field as f) as d
    left join lateral (
      select c.id, c.status, c.commission_rate from farebox.companies as c where c.id = d.company_id offset 0) as c on true
    left join lateral (
      select r.company_id, r.status from farebox.routes as r where r.id = d.route_id offset 0) as r on r.company_id = d.company_id
    offset 0
  )
  select
    coalesce(array_agg(row(
      e.ordinal, e.given_id,
      case when length(e.transaction_id) between 1 and 64 then e.transaction_id end,
      e.company_id, e.route_id, e.passenger_phone, e.monime_otp, e.payment_code, k.id, e.amount,
      coalesce(e.rate, p.commission_rate),
      case
        when coalesce(length(e.transaction_id), 0) not between 1 and 64 then 'transaction_id_invalid'
        when e.company_id is null then 'company_id_invalid'
        when e.route_id is null then 'route_id_invalid'
        when e.passenger_phone is null then 'phone_invalid'
        when (e.monime_otp collate "C" ~ '^[A-Za-z0-9]+$' and length(e.monime_otp) between 4 and 12) is not true then 'otp_invalid'
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
      end,
      (v_id_prefix || lpad(to_hex(e.ordinal), 4, '0'))::uuid)::farebox._ticket_request order by e.ordinal), '{}'),
    coalesce(bool_or(k.id is not null), false),
    coalesce(bool_or(u.is_open), false)
  into requests, has_code, has_unapplied
  from element as e
  left join place as p on p.company_id = e.company_id and p.route_id = e.route_id
  left join lateral (
    select k.id, k.company_id, k.route_id, k.status, k.used_tickets, k.total_tickets, k.expires_at
    from farebox.payment_codes as k where k.code = e.payment_code offset 0) as k on k.company_id = e.company_id
  -- Only what would charge a code is looked up beforehand: a retry must not queue for the lock of its code.
  left join lateral (
    select t.id from farebox.tickets as t
    where t.monime_transaction_id = case when k.id is not null then e.transaction_id end offset 0) as t on true
  left join lateral (
    select u.resolved_at is null as is_open from farebox.unapplied_payments as u
    where u.monime_transaction_id = e.transaction_id offset 0) as u on true;
end
$$;

comment on function farebox._read_requests(json, timestamptz) is
  'Internal: the elements of a batch, normalised, each with the first reason against a ticket';

reset role;
