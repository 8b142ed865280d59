-- Purpose: keeps each rejected payment, and resolves the kept ones whose payment has a ticket by now.
-- Parameters: p_batch as it came; p_requests and p_outcomes of its elements, in order; p_now.  Returns: nothing.
-- Locks and writes: unapplied_payments, all rows in the order of the payment and in one statement.
set role farebox_owner;

create function farebox._keep_unapplied_payments(
  p_batch json, p_requests farebox._ticket_request[], p_outcomes farebox.ticket_outcome[], p_now timestamptz)
returns void
language plpgsql volatile security invoker
as $$
begin
  with element as (
    select
      z.ordinal, z.transaction_id, z.company_id, z.request, z.outcome_reason as reason,
      z.outcome = 'rejected' and z.outcome_reason <> 'transaction_id_unavailable' as is_kept
    from rows from (unnest(p_requests), unnest(p_outcomes), json_array_elements(p_batch)) as z(
      ordinal, given_id, transaction_id, company_id, route_id, passenger_phone, monime_otp, payment_code, payment_code_id,
      amount, commission_rate, request_reason, new_ticket_id,
      outcome_ordinal, outcome_given_id, outcome, outcome_reason, ticket_id, existing_ticket_id, differing, transaction_recorded,
      request)
    where z.transaction_id is not null
  ),
  rejection as (
    select
      r.transaction_id,
      -- A payment that two companies claim belongs to neither: neither may read the other's request.
      case when count(distinct coalesce(r.company_id::text, '')) = 1 then (array_agg(r.company_id))[1] end as company_id,
      (array_agg(r.reason order by r.ordinal desc))[1] as reason,
      array_agg(r.request order by r.ordinal desc) filter (where r.is_last_of_its_kind) as requests,
      count(*)::int as attempts
    from (
      select e.*, row_number() over (partition by e.transaction_id, e.request::text order by e.ordinal desc) = 1 as is_last_of_its_kind
      from element as e
      where e.is_kept
    ) as r
    group by r.transaction_id
  ),
  payment as (
    select r.transaction_id, r.company_id, r.reason, r.requests, r.attempts
    from rejection as r
    union all
    -- Open rows whose payment was not rejected here: it has its ticket now. Without a reason nothing but that is written.
    select u.monime_transaction_id, u.company_id, null, array[u.request], 1
    from (select distinct e.transaction_id from element as e) as e
    cross join lateral (
      select u.* from farebox.unapplied_payments as u where u.monime_transaction_id = e.transaction_id offset 0) as u
    where u.resolved_at is null and not exists (select from element as k where k.is_kept and k.transaction_id = e.transaction_id)
  )
  insert into farebox.unapplied_payments as u (monime_transaction_id, company_id, request, reason, first_seen_at, last_seen_at,
    attempts, earlier_requests, resolved_at, ticket_id)
  select
    p.transaction_id, case when t.company_id is distinct from p.company_id and t.id is not null then null else p.company_id end, p.requests[1], p.reason, p_now, p_now,
    p.attempts, p.requests[2:10], case when t.id is not null then p_now end, t.id
  from payment as p
  left join lateral (
    select t.id, t.company_id from farebox.tickets as t where t.monime_transaction_id = p.transaction_id offset 0) as t on true
  where p.reason is not null or t.id is not null
  order by p.transaction_id
  on conflict (monime_transaction_id) do update set
    company_id = case when u.company_id = excluded.company_id then u.company_id end,
    request = case when excluded.reason is null then u.request else excluded.request end,
    reason = coalesce(excluded.reason, u.reason),
    -- Never back: who comes last may have begun first.
    last_seen_at = case when excluded.reason is null then u.last_seen_at else greatest(u.last_seen_at, excluded.last_seen_at) end,
    attempts = u.attempts + case when excluded.reason is null then 0 else excluded.attempts end,
    earlier_requests = case when excluded.reason is null then u.earlier_requests else array(
      select (array_agg(e.request order by e.place))[1]
      from unnest(excluded.earlier_requests || u.request || u.earlier_requests) with ordinality as e(request, place)
      where e.request::text <> excluded.request::text
      group by e.request::text
      order by min(e.place)
      limit 9) end,
    resolved_at = coalesce(u.resolved_at, case when excluded.ticket_id is not null then greatest(u.last_seen_at, excluded.resolved_at) end),
    ticket_id = coalesce(u.ticket_id, excluded.ticket_id);
end
$$;

comment on function farebox._keep_unapplied_payments(json, farebox._ticket_request[], farebox.ticket_outcome[], timestamptz) is
  'Internal: keeps rejected payments, resolves kept ones that have their ticket';

reset role;
