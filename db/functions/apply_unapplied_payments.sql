-- Purpose: tries kept payments again, those first that were tried longest ago.
-- Parameters: p_limit, 1 to 10,000; p_reason, only payments rejected for it (null = any).  Returns: their outcomes, as create_tickets; a
--   payment that makes create_tickets raise is rejected with error_ and the SQLSTATE, and the others have their turn all the same.
-- Raises: TK003; as create_tickets what is no payment's fault (blameless_errors).  Locks and writes: as create_tickets, which also
--   resolves the rows. No row is locked before, or the one order of locks would be broken; two callers may try the same payment at once.
set role farebox_owner;

create function farebox.apply_unapplied_payments(p_limit int default 1000, p_reason text default null)
returns setof farebox.ticket_outcome
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
-- As create_tickets: the plans must not hang on statistics.
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
declare
  v_payments text[];
  v_requests json[];
  v_reasons text[];  -- of each payment that is poison
  v_good int[];
begin
  perform farebox._check_limit(p_limit, 10000);

  select array_agg(u.monime_transaction_id order by u.last_seen_at, u.monime_transaction_id),
    array_agg(u.request order by u.last_seen_at, u.monime_transaction_id)
  into v_payments, v_requests
  from (
    select u.request, u.last_seen_at, u.monime_transaction_id
    from farebox.unapplied_payments as u
    where u.resolved_at is null and (p_reason is null or u.reason = p_reason)
    order by u.last_seen_at, u.monime_transaction_id
    limit p_limit
  ) as u;
  if v_requests is null then
    return;
  end if;

  begin
    return query select o.* from farebox.create_tickets(array_to_json(v_requests)) as o;
    return;
  exception when others then
    if farebox._is_blameless(sqlstate) then
      raise;
    end if;
  end;

  -- Somebody among them is poison, such as a payment that the queue gave up. A loop, because each is tried by itself to see who, and taken
  -- back, so that in the end the others take their locks in the one order, all together. (Who waits for one that is taken back goes on
  -- waiting until we have ended, and may stand before us in a code's line: only here one call may deadlock with another, 40P01.)
  v_reasons := array_fill(null::text, array[cardinality(v_requests)]);
  for v_ordinal in 1 .. cardinality(v_requests) loop
    begin
      perform from farebox.create_tickets(json_build_array(v_requests[v_ordinal]));
      raise exception using errcode = 'TK000', message = 'it is no poison';
    exception
      when sqlstate 'TK000' then
        null;
      when others then
        if farebox._is_blameless(sqlstate) then
          raise;
        end if;
        v_reasons[v_ordinal] := 'error_' || sqlstate;
    end;
  end loop;

  v_good := array(select r.ordinal from unnest(v_reasons) with ordinality as r(reason, ordinal) where r.reason is null order by r.ordinal);
  return query
    select v_good[o.ordinal], o.monime_transaction_id, o.outcome, o.reason, o.ticket_id, o.existing_ticket_id, o.differing,
      o.transaction_recorded
    from farebox.create_tickets(array_to_json(array(select v_requests[g.ordinal] from unnest(v_good) with ordinality as g(ordinal, place)
      order by g.place))) as o
    union all
    select p.ordinal::int, p.transaction_id, 'rejected', p.reason, null, null, null, false
    from unnest(v_payments, v_reasons) with ordinality as p(transaction_id, reason, ordinal)
    where p.reason is not null
    order by 1;
  -- To the end of the line; whoever has one of them in hand does the same.
  with poison as (
    select u.monime_transaction_id, p.reason
    from unnest(v_payments, v_reasons) as p(transaction_id, reason)
    join farebox.unapplied_payments as u on u.monime_transaction_id = p.transaction_id
    where p.reason is not null and u.resolved_at is null
    for update of u skip locked
  )
  update farebox.unapplied_payments as u
  set reason = p.reason, attempts = u.attempts + 1, last_seen_at = farebox._now()
  from poison as p
  where u.monime_transaction_id = p.monime_transaction_id;
end
$$;

comment on function farebox.apply_unapplied_payments(int, text) is
  'Tries unapplied payments again; a success resolves the row';

reset role;
