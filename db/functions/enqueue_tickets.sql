-- Purpose: stores requests durably, to become tickets soon; what is wrong with one comes out when it is processed.
-- Parameters: p_batch, an array of at most 10,000 requests.  Returns: for each, in order, its queue id. Once the transaction has
--   committed, none is ever lost; stored twice, it still buys one ticket.
-- Raises: TK001, TK002.  Locks and writes: ticket_queue_pauses (shared, if paused), ticket_queue (new rows: producers wait for nobody).
set role farebox_owner;

create function farebox.enqueue_tickets(p_batch json)
returns table (ordinal int, queue_id bigint)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
-- As create_tickets: the plans must not hang on statistics, least of all those of a table that is empty now and long then.
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
declare
  v_batch json := p_batch;
  v_companies uuid[];
  v_paused uuid[];
  v_floor bigint := (select f.last_value from farebox.ticket_queue_floor as f);
  v_now timestamptz := farebox._now();
  c_nobody constant uuid := uuid '00000000-0000-0000-0000-000000000000';
begin
  begin
    perform farebox._batch_length(v_batch);
    select array_agg(coalesce(x.company_id, c_nobody)) into v_companies
    from json_to_recordset(v_batch) as x(company_id uuid);
  exception when data_exception or statement_too_complex then
    if sqlstate = '54001' then
      v_batch := farebox._shallow_json(v_batch);
      perform farebox._batch_length(v_batch);
    end if;
    select array_agg(coalesce(x.company_id, c_nobody)) into v_companies
    from json_to_recordset(farebox._clean_batch(v_batch)) as x(company_id uuid);
  end;

  -- Locked, so that resuming a company waits for those who have seen it paused.
  v_paused := array(
    select p.company_id from farebox.ticket_queue_pauses as p where p.company_id = any (v_companies) order by p.company_id for share);

  return query
    with element as materialized (
      select x.ordinal::int as ordinal, x.company_id, x.request, nextval('farebox.ticket_queue_ids') as id
      from rows from (unnest(v_companies), json_array_elements(v_batch)) with ordinality as x(company_id, request, ordinal)
    ),
    -- The end of each company's own line. What stands above the floor is alive, but for what is being claimed right now,
    -- so that the look-up never wades through deleted rows.
    line as (
      select d.company_id, coalesce(l.rank, v_floor) as rank
      from (select distinct e.company_id from element as e) as d
      left join lateral (
        select q.rank from farebox.ticket_queue as q
        where q.company_id = d.company_id and q.rank > v_floor
        order by q.rank desc
        limit 1) as l on true
    ),
    stored as (
      insert into farebox.ticket_queue (id, rank, enqueued_at, company_id, request)
      select
        e.id,
        case when e.company_id <> all (v_paused) then l.rank + row_number() over (partition by e.company_id order by e.ordinal) end,
        v_now, e.company_id, e.request
      from element as e
      join line as l on l.company_id = e.company_id
      order by e.ordinal
    )
    select e.ordinal, e.id from element as e order by e.ordinal;

  perform farebox._wake_workers();
end
$$;

comment on function farebox.enqueue_tickets(json) is
  'Stores requests durably, to become tickets soon; the queue id of each element of the batch, in order';

reset role;
