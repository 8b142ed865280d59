-- Purpose: what became of queued requests, for whoever waits: asks again when told by NOTIFY farebox_settled, or after a while.
-- Parameters: p_queue_ids, p_batch, the requests as they were enqueued, one for each id.
-- Returns: an outcome for each that is settled, none for those that wait. It is read from what is stored now: `created` when the
--   payment has its ticket with these fields, by whichever request; reason `dropped` when nothing is left of the request.
-- Raises: TK001, TK002, TK003 (as many ids as requests).  Writes: ticket_queue_watch: workers notify for the next two seconds.
set role farebox_owner;

create function farebox.queued_outcomes(p_queue_ids bigint[], p_batch json)
returns setof farebox.ticket_outcome
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
declare
  v_batch json := p_batch;
  v_length int;
  v_clock bigint := (date_part('epoch', clock_timestamp()) * 1000)::bigint;
  v_settled int[];
begin
  begin
    v_length := farebox._batch_length(v_batch);
    perform b from farebox._parse_batch(v_batch) as b;  -- whole rows: a column that is not asked for is not read
  exception when data_exception or statement_too_complex then
    v_batch := farebox._clean_batch(case when sqlstate = '54001' then farebox._shallow_json(v_batch) else v_batch end);
    v_length := farebox._batch_length(v_batch);
  end;
  if p_queue_ids is null or cardinality(p_queue_ids) <> v_length then
    raise exception using errcode = 'TK003',
      message = format('%s queue ids for %s requests', coalesce(cardinality(p_queue_ids)::text, 'null'), v_length),
      hint = 'pass the id of each request';
  end if;
  if (select w.last_value from farebox.ticket_queue_watch as w) < v_clock + 1000 then
    perform setval('farebox.ticket_queue_watch', v_clock + 2000);
  end if;

  -- First who waits no more, then, by a later snapshot, what is stored: nobody is found settled whose ticket is not seen.
  v_settled := array(
    select i.ordinal::int
    from unnest(p_queue_ids) with ordinality as i(id, ordinal)
    left join lateral (select q.id from farebox.ticket_queue as q where q.id = i.id offset 0) as q on true
    where q.id is null);
  if v_settled = '{}' then
    return;
  end if;

  return query
    with compared as (
      select
        e.ordinal, e.given_id, e.transaction_id, e.company_id, t.id as found_id, t.company_id = e.company_id as is_own,
        farebox._differing(t.route_id, t.passenger_phone, k.code, t.monime_otp, t.amount,
          e.route_id, e.passenger_phone, e.payment_code, e.monime_otp, e.amount) as differing,
        x.ticket_id is not null as is_recorded,
        u.reason
      from (select b.* from farebox._parse_batch(v_batch) as b where b.ordinal = any (v_settled) offset 0) as e
      left join lateral (
        select t.* from farebox.tickets as t
        where t.monime_transaction_id = case when e.company_id is not null then e.transaction_id end offset 0) as t on true
      left join lateral (select k.code from farebox.payment_codes as k where k.id = t.payment_code_id offset 0) as k on true
      left join lateral (select x.ticket_id from farebox.transactions as x where x.ticket_id = t.id offset 0) as x on true
      left join lateral (
        select u.reason, u.resolved_at from farebox.unapplied_payments as u
        where u.monime_transaction_id = e.transaction_id offset 0) as u on u.resolved_at is null
      offset 0
    )
    select
      c.ordinal,
      c.given_id,
      case when c.is_own is not true then 'rejected' when c.differing = '{}' then 'created' else 'conflict' end,
      case
        when c.is_own then null
        when (length(c.transaction_id) between 1 and 64) is not true then 'transaction_id_invalid'
        when c.company_id is null then 'company_id_invalid'
        when not c.is_own then 'transaction_id_unavailable'
        else coalesce(c.reason, 'dropped')
      end,
      case when c.is_own and c.differing = '{}' then c.found_id end,
      case when c.is_own and c.differing <> '{}' then c.found_id end,
      case when c.is_own and c.differing <> '{}' then c.differing end,
      c.is_own is true and c.differing = '{}' and c.is_recorded
    from compared as c
    order by c.ordinal;
end
$$;

comment on function farebox.queued_outcomes(bigint[], json) is
  'What became of queued requests; no row for those that still wait';

reset role;
