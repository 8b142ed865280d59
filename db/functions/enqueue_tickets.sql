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
  c_nobody constant uuid := uuid '00000000-0000-0000-0000-000000000000';
  v_batch json := p_batch;
  v_ids bigint[];
  v_companies uuid[];
  v_paused uuid[];
  v_ranks bigint[];
  v_floor bigint := (select f.last_value from farebox.ticket_queue_floor as f);
  v_now timestamptz := farebox._now();
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

  -- Each company's requests go behind its own last one. What stands above the floor is alive, but for what is being claimed right
  -- now, so that the look-up never wades through deleted rows.
  select
    array_agg(case when c.company_id <> all (v_paused) then l.rank + c.place end order by c.ordinal),
    array_agg(nextval('farebox.ticket_queue_ids') order by c.ordinal)
  into v_ranks, v_ids
  from (
    select c.company_id, c.ordinal, row_number() over (partition by c.company_id order by c.ordinal) as place
    from unnest(v_companies) with ordinality as c(company_id, ordinal)
  ) as c
  join (
    select d.company_id, coalesce((
      select q.rank from farebox.ticket_queue as q
      where q.company_id = d.company_id and q.rank > v_floor
      order by q.rank desc
      limit 1), v_floor) as rank
    from (select distinct c.company_id from unnest(v_companies) as c(company_id)) as d
  ) as l on l.company_id = c.company_id;

  insert into farebox.ticket_queue (id, rank, enqueued_at, company_id, request)
  select x.id, x.rank, v_now, x.company_id, x.request
  from rows from (unnest(v_ids), unnest(v_ranks), unnest(v_companies), json_array_elements(v_batch)) as x(id, rank, company_id, request);
  perform farebox._wake_workers();
  return query select i.ordinal::int, i.id from unnest(v_ids) with ordinality as i(id, ordinal);
end
$$;

comment on function farebox.enqueue_tickets(json) is
  'Stores requests durably, to become tickets soon; the queue id of each element of the batch, in order';

reset role;
