-- Purpose: makes tickets of claimed requests and settles them, or puts them back.
-- Parameters: p_requests, locked; p_begun, whether the present attempt is counted already.  Returns: the counts of process_ticket_queue.
-- Raises: what is not the requests' fault (classes 08, 25, 40, 42, 53, 55, 57, 58): all is put back then.
-- Locks and writes: as create_tickets, which is called once, so that the one order of locks holds; then ticket_queue, ticket_queue_dead.
set role farebox_owner;

create function farebox._process_requests(p_requests farebox.ticket_queue[], p_begun boolean,
  out taken int, out created int, out duplicates int, out conflicts int, out rejected int, out retried int, out dead int)
language plpgsql volatile security invoker
as $$
declare
  c_attempts constant int := 3;
  v_ids bigint[] := array(select r.id from unnest(p_requests) as r);
  v_requests int[];
  v_reasons text[];
  v_details text[];
  v_attempts int;
  v_sqlstate text;
  v_now timestamptz;
begin
  taken := cardinality(p_requests);
  created := 0;
  duplicates := 0;
  conflicts := 0;
  rejected := 0;
  retried := 0;
  dead := 0;
  v_attempts := p_requests[1].attempts + case when p_begun then 0 else 1 end;  -- if it is one request
  if taken = 1 and v_attempts > c_attempts then
    -- Each of its attempts was begun and none ended.
    perform farebox._give_up_request(p_requests[1], p_requests[1].reason, farebox._now());
    dead := 1;
    return;
  end if;

  begin
    select
      (count(*) filter (where o.outcome = 'created'))::int,
      (count(*) filter (where o.outcome = 'duplicate'))::int,
      (count(*) filter (where o.outcome = 'conflict'))::int,
      (count(*) filter (where o.outcome = 'rejected'))::int,
      -- What create_tickets keeps nowhere.
      array_agg(o.ordinal order by o.ordinal) filter (where o.is_homeless),
      array_agg(coalesce(o.reason, o.outcome) order by o.ordinal) filter (where o.is_homeless),
      array_agg(array_to_string(o.differing, ', ') order by o.ordinal) filter (where o.is_homeless)
    into created, duplicates, conflicts, rejected, v_requests, v_reasons, v_details
    from (
      select o.*,
        o.outcome = 'conflict' or o.reason in ('transaction_id_invalid', 'transaction_id_unavailable') as is_homeless
      from farebox.create_tickets(
        ('[' || (select string_agg(r.request::text, ',') from unnest(p_requests) as r) || ']')::json) as o
    ) as o;
  exception when others then
    get stacked diagnostics v_sqlstate = returned_sqlstate;
    if left(v_sqlstate, 2) in ('08', '25', '40', '42', '53', '55', '57', '58') then
      raise;
    end if;
  end;

  v_now := farebox._now();
  if v_sqlstate is null then
    delete from farebox.ticket_queue as q where q.id = any (v_ids);
    if v_requests is not null then
      perform farebox._keep_dead_requests(array(select p_requests[o.ordinal] from unnest(v_requests) as o(ordinal)),
        v_reasons, v_details, v_now);
    end if;
  elsif taken > 1 then
    -- Somebody among them is poison. Nobody is blamed yet: they are tried again in half the company, which finds it in the end.
    update farebox.ticket_queue as q
    set together = (taken + 1) / 2
    where q.id = any (v_ids);
    retried := taken;
  elsif v_attempts < c_attempts then
    update farebox.ticket_queue as q
    set
      rank = null,
      ready_at = v_now + farebox._backoff(v_attempts),
      attempts = v_attempts,
      together = 1,
      reason = 'error_' || v_sqlstate
    where q.id = p_requests[1].id;
    retried := 1;
  else
    perform farebox._give_up_request(p_requests[1], 'error_' || v_sqlstate, v_now);
    dead := 1;
  end if;

  -- Whoever waits for an outcome is told, at the commit, whose may be there now.
  if (select w.last_value from farebox.ticket_queue_watch as w) > date_part('epoch', clock_timestamp()) * 1000 then
    perform pg_notify('farebox_settled', left(array_to_string(v_ids, ','), 7999));
  end if;
end
$$;

comment on function farebox._process_requests(farebox.ticket_queue[], boolean) is
  'Internal: makes tickets of claimed requests and settles them, or puts them back';

reset role;
