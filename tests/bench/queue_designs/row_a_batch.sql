-- A row for each enqueued batch and company, at most a hundred requests in each; SKIP LOCKED, deleted when settled. Ranks as in
-- the queue itself. Only what the comparison needs: nothing is retried, listed or paused.
create schema design;
create sequence design.ids;
create sequence design.floor minvalue 0 start 0;
create table design.queue (
  id bigint primary key,
  rank bigint not null,
  company_id uuid not null,
  size int not null,
  enqueued_at timestamptz not null,
  requests text not null
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_cost_delay = 0);
alter table design.queue alter requests set storage external;
create index on design.queue (rank, id);
create index on design.queue (company_id, rank);

create function design.enqueue(p_batch json) returns setof bigint
language plpgsql volatile
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = on set plan_cache_mode = force_generic_plan set jit = off
as $$
declare
  v_floor bigint := (select last_value from design.floor);
begin
  return query
    with element as materialized (
      select x.ordinal, x.company_id, x.request, row_number() over (partition by x.company_id order by x.ordinal) - 1 as place
      from rows from (json_to_recordset(p_batch) as (company_id uuid), json_array_elements(p_batch)) with ordinality
        as x(company_id, request, ordinal)
    ),
    line as (
      select d.company_id, coalesce((
        select q.rank + q.size from design.queue as q where q.company_id = d.company_id and q.rank > v_floor
        order by q.rank desc limit 1), v_floor + 1) as rank
      from (select distinct e.company_id from element as e) as d
    )
    insert into design.queue (id, rank, company_id, size, enqueued_at, requests)
    select nextval('design.ids'), min(l.rank + e.place), e.company_id, count(*), clock_timestamp(),
      string_agg(e.request::text, ',' order by e.ordinal)
    from element as e join line as l on l.company_id = e.company_id
    group by e.company_id, e.place / 100
    returning id;
end
$$;

create function design.process(p_limit int) returns int
language plpgsql volatile
set enable_seqscan = off set enable_bitmapscan = off set plan_cache_mode = force_generic_plan set jit = off
as $$
declare
  v_floor bigint := (select last_value from design.floor);
  v_ids bigint[];
  v_batch text;
  v_first bigint;
  v_taken int;
begin
  with claimed as materialized (
    select q.id, q.rank, q.size, q.requests
    from design.queue as q where q.rank >= v_floor order by q.rank, q.id limit least(p_limit, 32) for update skip locked
  )
  select array_agg(c.id), '[' || string_agg(c.requests, ',') || ']', min(c.rank), sum(c.size) into v_ids, v_batch, v_first, v_taken
  from (select c.*, sum(c.size) over (order by c.rank, c.id) - c.size as before from claimed as c) as c
  where c.before = 0 or c.before + c.size <= p_limit;
  if v_taken is null then
    return 0;
  end if;
  if v_first > v_floor then
    perform setval('design.floor', v_first);
  end if;
  begin
    perform count(*) from farebox.create_tickets(v_batch::json);
  exception when division_by_zero then
    raise;
  end;
  delete from design.queue as q where q.id = any (v_ids);
  return v_taken;
end
$$;
