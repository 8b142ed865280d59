-- Append-only tables read by snapshots, as PgQ does: nothing is deleted, a cursor for each of four lanes moves on, three tables are
-- filled in turn and truncated. Only what the comparison needs: first come, first served, nothing is retried or paused.
create schema design;
create sequence design.ids;
create table design.log_0 (
  id bigint not null,
  transaction xid8 default pg_current_xact_id() not null,
  lane int not null,
  request json not null
) with (autovacuum_enabled = off);
create index on design.log_0 (lane, transaction);
create table design.log_1 (like design.log_0 including all);
create table design.log_2 (like design.log_0 including all);
create view design.log as
select * from design.log_0 union all select * from design.log_1 union all select * from design.log_2;
create table design.lanes (lane int primary key, seen pg_snapshot not null, until pg_snapshot not null, id bigint not null)
with (fillfactor = 10, autovacuum_vacuum_threshold = 100);
insert into design.lanes select lane, pg_current_snapshot(), pg_current_snapshot(), 0 from generate_series(0, 3) as lane;

create function design.enqueue(p_batch json) returns setof bigint
language plpgsql volatile
set enable_seqscan = off set plan_cache_mode = force_generic_plan set jit = off
as $$
declare
  v_lane int := floor(random() * 4);
begin
  return query
    insert into design.log_0 (id, lane, request)
    select nextval('design.ids'), v_lane, e.value from json_array_elements(p_batch) as e
    returning id;
end
$$;

create function design.process(p_limit int) returns int
language plpgsql volatile
set enable_seqscan = off set enable_bitmapscan = off set plan_cache_mode = force_generic_plan set jit = off
as $$
declare
  v_lane design.lanes;
  v_batch text;
  v_last bigint;
  v_taken int;
begin
  for v_lane in select * from design.lanes order by random() for update skip locked loop
    for v_round in 1 .. 2 loop
      -- What is visible in the later snapshot and was not in the earlier one, and what came between is read in steps.
      select '[' || string_agg(e.request::text, ',') || ']', max(e.id), count(*) into v_batch, v_last, v_taken
      from (
        select l.id, l.request
        from design.log as l
        where l.lane = v_lane.lane
          and l.transaction >= pg_snapshot_xmin(v_lane.seen) and l.transaction < pg_snapshot_xmax(v_lane.until)
          and pg_visible_in_snapshot(l.transaction, v_lane.until) and not pg_visible_in_snapshot(l.transaction, v_lane.seen)
          and l.id > v_lane.id
        order by l.id
        limit p_limit
      ) as e;
      exit when v_taken > 0;
      v_lane.seen := v_lane.until;
      v_lane.until := pg_current_snapshot();
      v_lane.id := 0;
    end loop;
    if v_taken > 0 then
      begin
        perform count(*) from farebox.create_tickets(v_batch::json);
      exception when division_by_zero then
        raise;
      end;
      update design.lanes set seen = v_lane.seen, until = v_lane.until, id = v_last where lane = v_lane.lane;
      return v_taken;
    end if;
  end loop;
  return 0;
end
$$;
