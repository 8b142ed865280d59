-- Purpose: the outcome of each element, once the tickets are written: created, or what the payment's ticket says.
-- Parameters: p_requests, in order; p_created, how many tickets were written.
-- Returns: the outcomes in order; transaction_recorded is left false for _settle_records.  Raises: 40001 when a ticket that was there has gone.
set role farebox_owner;

create function farebox._judge_requests(p_requests farebox._ticket_request[], p_created int)
returns farebox.ticket_outcome[]
language plpgsql volatile security invoker
as $$
declare
  v_outcomes farebox.ticket_outcome[];
  v_vanished boolean;
  v_duplicates int;
  v_conflicts int;
  v_rejections int;
  -- Every candidate became a ticket, so none of them needs a look-up.
  v_all_created boolean := p_created = (select count(*) from unnest(p_requests) as r where r.reason is null);
begin
  with compared as (
    select
      r.ordinal, r.given_id, r.reason, r.ticket_id, t.id as found_id,
      t.company_id = r.company_id as is_own,
      farebox._differing(t.route_id, t.passenger_phone, k.code, t.monime_otp, t.amount,
        r.route_id, r.passenger_phone, r.payment_code, r.monime_otp, r.amount) as differing,
      -- Where this very batch created the ticket: from which element on it is there.
      min(r.ordinal) filter (where r.reason is null and (v_all_created or t.id = r.ticket_id))
        over (partition by r.transaction_id) as created_by
    from unnest(p_requests) as r
    left join lateral (
      select t.* from farebox.tickets as t
      where t.monime_transaction_id =
        case when r.company_id is not null and not (v_all_created and r.reason is null) then r.transaction_id end
      offset 0) as t on true
    left join lateral (select k.code from farebox.payment_codes as k where k.id = t.payment_code_id offset 0) as k on true
  ),
  judged as (
    select
      c.*,
      case
        when c.reason is null and (v_all_created or c.found_id = c.ticket_id) then 'created'
        when c.found_id is null or c.ordinal < c.created_by or not c.is_own then 'rejected'
        when c.differing = '{}' then 'duplicate'
        else 'conflict'
      end as outcome
    from compared as c
    offset 0
  )
  select
    array_agg(row(
      j.ordinal,
      j.given_id,
      j.outcome,
      case when j.outcome = 'rejected' then
        case when j.found_id is null or j.ordinal < j.created_by then j.reason else 'transaction_id_unavailable' end end,
      case j.outcome when 'created' then j.ticket_id when 'duplicate' then j.found_id end,
      case j.outcome when 'conflict' then j.found_id end,
      case j.outcome when 'conflict' then j.differing end,
      false)::farebox.ticket_outcome order by j.ordinal),
    coalesce(bool_or(j.found_id is null and (j.reason = 'known' or j.reason is null and not v_all_created)), false),
    (count(*) filter (where j.outcome = 'duplicate'))::int,
    (count(*) filter (where j.outcome = 'conflict'))::int,
    (count(*) filter (where j.outcome = 'rejected'))::int
  into v_outcomes, v_vanished, v_duplicates, v_conflicts, v_rejections
  from judged as j;

  if v_vanished then
    raise exception using errcode = 'serialization_failure',
      message = 'a ticket disappeared while its payment was being looked up',
      hint = 'retry the call';
  end if;
  perform farebox._count_outcomes(v_duplicates, v_conflicts, v_rejections);
  return v_outcomes;
end
$$;

comment on function farebox._judge_requests(farebox._ticket_request[], int) is
  'Internal: the outcome of each element, from the ticket its payment has';

reset role;
