-- Purpose: makes tickets of claimed requests and settles them, or puts them back.
-- Parameters: p_ids, locked; p_places, where their rows are, or null; p_batch, their requests; p_begun, whether the present attempt is
--   counted already.  Returns: the counts of process_ticket_queue.  Raises: what is not the requests' fault (classes 08, 25, 40, 42, 53, 55, 57, 58;
--   not time-outs). Of a counted attempt it raises nothing, or the count would stand: it takes it back, unless the request may be to blame after all.
-- Locks and writes: as create_tickets, which is called once, so that the one order of locks holds; ticket_queue_dead, ticket_queue.
set role farebox_owner;

create function farebox._process_requests(p_ids bigint[], p_places tid[], p_batch json, p_begun boolean,
  out taken int, out created int, out duplicates int, out conflicts int, out rejected int, out retried int, out dead int)
language plpgsql volatile security invoker
as $$
declare
  c_attempts constant int := 3;
  v_homeless bigint[];
  v_reasons text[];
  v_details text[];
  v_request farebox.ticket_queue;
  v_attempts int;  -- of a single request, with the present one
  v_sqlstate text;
  v_is_timeout boolean;
  v_is_blameless boolean;
  v_began timestamptz := clock_timestamp();
  v_now timestamptz;
begin
  taken := cardinality(p_ids);
  created := 0;
  duplicates := 0;
  conflicts := 0;
  rejected := 0;
  retried := 0;
  dead := 0;
  if taken = 1 then
    select q.* into v_request from farebox.ticket_queue as q where q.id = p_ids[1];
    v_attempts := v_request.attempts + case when p_begun then 0 else 1 end;
    if v_attempts > c_attempts then  -- each was begun and none ended
      perform farebox._give_up_request(v_request, v_request.reason, farebox._now());
      perform farebox._count_retries(0, 1);
      dead := 1;
      return;
    end if;
  end if;

  begin
    select
      (count(*) filter (where o.outcome = 'created'))::int,
      (count(*) filter (where o.outcome = 'duplicate'))::int,
      (count(*) filter (where o.outcome = 'conflict'))::int,
      (count(*) filter (where o.outcome = 'rejected'))::int,
      -- What create_tickets keeps nowhere.
      array_agg(p_ids[o.ordinal]) filter (where o.is_homeless),
      array_agg(coalesce(o.reason, o.outcome)) filter (where o.is_homeless),
      array_agg(array_to_string(o.differing, ', ')) filter (where o.is_homeless)
    into created, duplicates, conflicts, rejected, v_homeless, v_reasons, v_details
    from (
      select o.*,
        o.outcome = 'conflict' or o.reason in ('transaction_id_invalid', 'transaction_id_unavailable') as is_homeless
      from farebox.create_tickets(p_batch) as o
    ) as o;
  exception when others or query_canceled or assert_failure then
    get stacked diagnostics v_sqlstate = returned_sqlstate;
    -- Where the caller does not wait for ever, one request may be why it waits: raised, the same batch would come to the same end again
    -- and again. What somebody has canceled is canceled.
    v_is_timeout := case v_sqlstate
      when '55P03' then current_setting('lock_timeout') <> '0'
      when '57014' then current_setting('statement_timeout') <> '0'
        and clock_timestamp() - v_began > current_setting('statement_timeout')::interval / 2
      else false end;
    if not v_is_timeout
      and (v_sqlstate = '57014' or not p_begun and left(v_sqlstate, 2) in ('08', '25', '40', '42', '53', '55', '57', '58'))
    then
      raise;
    end if;
    v_is_blameless := farebox._is_blameless(v_sqlstate);
  end;

  v_now := farebox._now();
  if v_sqlstate is null then
    if v_homeless is not null then
      perform farebox._keep_dead_requests(v_homeless, v_reasons, v_details, v_now);
    end if;
    if p_places is not null then
      delete from farebox.ticket_queue as q where q.ctid = any (p_places);  -- nobody moves what is locked
    else
      delete from farebox.ticket_queue as q where q.id = any (p_ids);
    end if;
  elsif taken > 1 then
    -- Somebody among them is poison. Nobody is blamed yet: they are tried again in half the company, which finds it in the end.
    update farebox.ticket_queue as q set together = (taken + 1) / 2 where q.id = any (p_ids);
    retried := taken;
  elsif v_is_blameless or v_attempts < c_attempts then
    update farebox.ticket_queue as q
    set
      rank = null,
      ready_at = v_now + farebox._backoff(v_attempts),
      attempts = v_attempts - case when v_is_blameless then 1 else 0 end,
      together = 1,
      reason = 'error_' || v_sqlstate
    where q.id = v_request.id;
    retried := 1;
  else
    perform farebox._give_up_request(v_request, 'error_' || v_sqlstate, v_now);
    dead := 1;
  end if;

  if retried > 0 or dead > 0 then
    perform farebox._count_retries(retried, dead);
  end if;

  -- Whoever waits for outcomes is told, at the commit, whose may be there now.
  if pg_sequence_last_value('farebox.ticket_queue_watch') > date_part('epoch', clock_timestamp()) * 1000 then
    perform pg_notify('farebox_settled', left(array_to_string(p_ids, ','), 7999));
  end if;
end
$$;

comment on function farebox._process_requests(bigint[], tid[], json, boolean) is
  'Internal: makes tickets of claimed requests and settles them, or puts them back';

reset role;
