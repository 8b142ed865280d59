-- Purpose: removes queued requests that ended in a conflict, or for a payment of another company, and were last seen long ago.
--   Those tell of no money without a ticket. Whatever else died stays until a person drops it (drop_queued_requests).
-- Parameters: p_before, those last seen before; p_limit, 1 to 10,000.  Returns: how many it removed; call again while that is p_limit.
-- Raises: TK003.  Locks and writes: ticket_queue_dead; those in use right now are left to the next call.
set role farebox_owner;

create function farebox.purge_dead_requests(p_before timestamptz, p_limit int default 1000)
returns int
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
declare
  v_purged int;
begin
  perform farebox._check_limit(p_limit, 10000);
  if p_before is null or p_before > farebox._now() then
    raise exception using errcode = 'TK003',
      message = format('the time is %s', coalesce(p_before::text, 'null')),
      hint = 'pass a time that is past: what was last seen before it is removed';
  end if;

  delete from farebox.ticket_queue_dead as d
  where d.id = any (array(
    select p.id from farebox.ticket_queue_dead as p
    where p.last_seen_at < p_before and p.reason in ('conflict', 'transaction_id_unavailable')
    order by p.last_seen_at, p.id
    limit p_limit
    for update skip locked));
  get diagnostics v_purged = row_count;
  return v_purged;
end
$$;

comment on function farebox.purge_dead_requests(timestamptz, int) is
  'Removes queued requests that ended in a conflict or belong to others and were last seen before a time; how many';

reset role;
