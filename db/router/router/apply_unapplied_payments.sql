-- Purpose: as db/functions/apply_unapplied_payments.sql, over all shards that answer.
-- Parameters, returns, raises: as there.
set role farebox_owner;

create or replace function farebox.apply_unapplied_payments(p_limit int default 1000, p_reason text default null)
returns setof farebox.ticket_outcome
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
declare
  v_at int;
  v_requests text[] := '{}';
  v_seen timestamptz[] := '{}';
  v_ids text[] := '{}';
  v_ats int[] := '{}';
  v_page record;
begin
  perform farebox._check_limit(p_limit, 10000);

  for v_at in select distinct p.at from farebox.partitions as p where p.at <> all (farebox._shards_down()) order by p.at loop
    begin
      select array_agg(o.last_seen_at) as seen, array_agg(o.monime_transaction_id) as ids, array_agg(o.request::text) as requests,
        array_agg(v_at) as ats
      into v_page
      from farebox._at_open_payments(v_at, p_limit, p_reason) as o;
      v_seen := v_seen || v_page.seen;
      v_ids := v_ids || v_page.ids;
      v_requests := v_requests || v_page.requests;
      v_ats := v_ats || v_page.ats;
    exception when others or query_canceled then
      perform farebox._find_lost(array[v_at], sqlstate, sqlerrm);
    end;
  end loop;

  select array_agg(r.request order by r.seen, r.id collate "C", r.at), array_agg(r.id order by r.seen, r.id collate "C", r.at)
  into v_requests, v_ids
  from (
    select r.* from unnest(v_seen, v_ids, v_ats, v_requests) as r(seen, id, at, request)
    order by r.seen, r.id collate "C", r.at
    limit p_limit) as r;
  if v_requests is null then
    return;
  end if;
  begin
    return query select o.* from farebox.create_tickets(('[' || array_to_string(v_requests, ',') || ']')::json) as o;
    return;
  exception when others then
    if farebox._is_blameless(sqlstate) then
      raise;
    end if;
  end;

  -- One of them is poison. A loop, because nothing is taken back here: each has its turn by itself. (It stays in front of the line.)
  for v_ordinal in 1 .. cardinality(v_requests) loop
    begin
      return query
        select v_ordinal, o.monime_transaction_id, o.outcome, o.reason, o.ticket_id, o.existing_ticket_id, o.differing,
          o.transaction_recorded
        from farebox.create_tickets(('[' || v_requests[v_ordinal] || ']')::json) as o;
    exception when others then
      if farebox._is_blameless(sqlstate) then
        raise;
      end if;
      return query select v_ordinal, v_ids[v_ordinal], 'rejected', 'error_' || sqlstate, null::uuid, null::uuid, null::text[], false;
    end;
  end loop;
end
$$;

reset role;
