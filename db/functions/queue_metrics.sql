-- Purpose: the state of the queue for monitoring, in one row.
-- Returns: size (all that is stored and not settled) and the age of the oldest; ready, delayed (in backoff), paused; by_attempts, the
--   number of requests for each number of failed attempts; dead (list_dead_requests counts them); dead_tuples of the table, and
--   oldest_xmin_age, in transactions, of whatever keeps vacuum from removing them: an old snapshot, a prepared transaction, a slot.
set role farebox_owner;

create function farebox.queue_metrics()
returns table (size bigint, oldest_age interval, ready bigint, delayed bigint, paused bigint, by_attempts json, dead bigint,
  dead_tuples bigint, oldest_xmin_age bigint)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
set jit = off
as $$
declare
  v_now timestamptz := farebox._now();
begin
  return query
    select
      coalesce(sum(g.requests), 0)::bigint,
      v_now - min(g.oldest_at),
      coalesce(sum(g.ready), 0)::bigint,
      coalesce(sum(g.delayed), 0)::bigint,
      coalesce(sum(g.requests - g.ready - g.delayed), 0)::bigint,
      coalesce(json_object_agg(g.attempts, g.requests order by g.attempts) filter (where g.attempts is not null), '{}'),
      (select count(*) from farebox.ticket_queue_dead)
        + (select count(*) from farebox.unapplied_payments as u where u.resolved_at is null and farebox._is_given_up(u.reason)),
      pg_stat_get_dead_tuples('farebox.ticket_queue'::regclass),
      (
        select max(x.age)
        from (
          select greatest(age(a.backend_xmin), age(a.backend_xid)) as age from pg_stat_activity as a
          union all
          select greatest(age(s.xmin), age(s.catalog_xmin)) from pg_replication_slots as s
          union all
          select age(x.transaction) from pg_prepared_xacts as x
        ) as x
      )::bigint
    from (
      select
        q.attempts,
        count(*) as requests,
        min(q.enqueued_at) as oldest_at,
        count(*) filter (where q.rank is not null or q.ready_at <= v_now) as ready,
        count(*) filter (where q.ready_at > v_now) as delayed
      from farebox.ticket_queue as q
      group by q.attempts
    ) as g;
end
$$;

comment on function farebox.queue_metrics() is 'The state of the queue for monitoring, in one row';

reset role;
