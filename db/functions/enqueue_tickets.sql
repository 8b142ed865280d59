-- Purpose: stores requests durably, to become tickets soon; what is wrong with one comes out when it is processed.
-- Parameters: p_batch, an array of at most 10,000 requests.  Returns: for each, in order, its queue id. Once the transaction has
--   committed, none is ever lost; stored twice, it still buys one ticket.
-- Raises: TK001, TK002.  Locks and writes: ticket_queue_pauses (shared, if paused), an advisory lock (see _hold_queue_floor),
--   ticket_queue (new rows). Producers wait for nobody.
set role farebox_owner;

create function farebox.enqueue_tickets(p_batch json)
returns table (ordinal int, queue_id bigint)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
-- As create_tickets: the plans must not hang on statistics, least of all those of a table that is empty now and long then.
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
declare
  c_nobody constant uuid := uuid '00000000-0000-0000-0000-000000000000';
  v_batch json := p_batch;
  v_requests json[];
  v_companies uuid[];
  v_length int;
  v_paused uuid[];
  v_ids bigint[];
  v_floor bigint;
  v_now timestamptz := farebox._now();
begin
  begin
    -- Usually the elements are counted once they are read: counting them first is one more pass over the whole text.
    if v_batch is null or pg_column_size(v_batch) > 1000000 then
      perform farebox._batch_length(v_batch);
    end if;
    select array_agg(e.value), array_agg(coalesce((e.value ->> 'company_id')::uuid, c_nobody))
    into v_requests, v_companies
    from json_array_elements(v_batch) as e;
  exception when data_exception or statement_too_complex then
    if sqlstate = '54001' then
      v_batch := farebox._shallow_json(v_batch);
    end if;
    perform farebox._batch_length(v_batch);
    v_requests := array(select e.value from json_array_elements(v_batch) as e);
    select array_agg(coalesce(x.company_id, c_nobody)) into v_companies
    from json_to_recordset(farebox._clean_batch(v_batch)) as x(company_id uuid);
  end;
  v_length := coalesce(cardinality(v_requests), 0);
  if v_length > 10000 then
    perform farebox._batch_length(v_batch);
  end if;

  -- Locked, so that resuming a company waits for those who have seen it paused.
  v_paused := array(
    select p.company_id from farebox.ticket_queue_pauses as p where p.company_id = any (v_companies) order by p.company_id for share);

  v_ids := array(select nextval('farebox.ticket_queue_ids') from generate_series(1, v_length));
  v_floor := farebox._hold_queue_floor();

  -- Each company's requests go behind its own last one, spread evenly over as many ranks as they are. What stands above the floor
  -- is alive, but for what is being claimed right now, so that the look-up never wades through deleted rows.
  insert into farebox.ticket_queue (id, rank, enqueued_at, company_id, request)
  select
    x.id,
    case when x.company_id <> all (v_paused) then l.rank + 1 + (x.ordinal - 1) * l.requests / v_length end,
    v_now, x.company_id, x.request
  from unnest(v_ids, v_companies, v_requests) with ordinality as x(id, company_id, request, ordinal)
  join (
    select d.company_id, d.requests, coalesce((
      select q.rank from farebox.ticket_queue as q
      where q.company_id = d.company_id and q.rank > v_floor
      order by q.rank desc nulls last
      limit 1), v_floor) as rank
    from (select c.company_id, count(*) as requests from unnest(v_companies) as c(company_id) group by c.company_id) as d
    offset 0  -- else the look-up would be made again for each request
  ) as l on l.company_id = x.company_id;
  perform farebox._wake_workers();
  return query select i.ordinal::int, i.id from unnest(v_ids) with ordinality as i(id, ordinal);
end
$$;

comment on function farebox.enqueue_tickets(json) is
  'Stores requests durably, to become tickets soon; the queue id of each element of the batch, in order';

reset role;
