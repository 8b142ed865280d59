-- Purpose: the short way of a batch that has been here before: every payment has its ticket, so nothing but the answer is left to do.
-- Parameters: p_batch.  Returns: the outcomes in order; null when any element, record or open unapplied payment needs the long way.
-- Raises: data exceptions for what cannot be read as it is.
set role farebox_owner;

create function farebox._answer_replay(p_batch json)
returns farebox.ticket_outcome[]
language plpgsql volatile security invoker
as $$
declare
  v_outcomes farebox.ticket_outcome[];
  v_is_replay boolean;
  v_duplicates int;
  v_conflicts int;
  v_rejections int;
begin
  with compared as (
    select
      e.ordinal, e.given_id, t.id, t.company_id = e.company_id as is_own,
      -- Null for a replay: that is asked of each row several times.
      nullif(farebox._differing(t.route_id, t.passenger_phone, k.code, t.monime_otp, t.amount,
        e.route_id, e.passenger_phone, e.payment_code, e.monime_otp, e.amount), '{}') as differing,
      x.ticket_id is not null as is_recorded,
      u.is_open,
      e.id_may_be_number
    from (select b.* from farebox._parse_batch(p_batch) as b offset 0) as e
    left join lateral (
      select t.* from farebox.tickets as t
      where t.monime_transaction_id = case when e.company_id is not null then e.transaction_id end offset 0) as t on true
    left join lateral (select k.code from farebox.payment_codes as k where k.id = t.payment_code_id offset 0) as k on true
    left join lateral (select x.ticket_id from farebox.transactions as x where x.ticket_id = t.id offset 0) as x on true
    left join lateral (
      -- Not asked for in here: the index of all open payments would seem to serve as well.
      select u.resolved_at is null as is_open from farebox.unapplied_payments as u
      where u.monime_transaction_id = e.transaction_id offset 0) as u on true
    offset 0
  )
  select
    array_agg(row(
      c.ordinal, c.given_id,
      case when not c.is_own then 'rejected' when c.differing is null then 'duplicate' else 'conflict' end,
      case when not c.is_own then 'transaction_id_unavailable' end,
      case when c.is_own and c.differing is null then c.id end,
      case when c.is_own and c.differing is not null then c.id end,
      case when c.is_own then c.differing end,
      c.is_own and c.differing is null)::farebox.ticket_outcome order by c.ordinal),
    bool_and(c.id is not null and c.is_open is not true and c.id_may_be_number is not true
      and (c.is_recorded or not c.is_own or c.differing is not null)),
    (count(*) filter (where c.is_own and c.differing is null))::int,
    (count(*) filter (where c.is_own and c.differing is not null))::int,
    (count(*) filter (where not c.is_own))::int
  into v_outcomes, v_is_replay, v_duplicates, v_conflicts, v_rejections
  from compared as c;

  if v_is_replay then
    perform farebox._count_outcomes(v_duplicates, v_conflicts, v_rejections);
    return v_outcomes;
  end if;
  return null;
end
$$;

comment on function farebox._answer_replay(json) is 'Internal: the outcomes of a batch whose payments all have their tickets, else null';

reset role;
