-- Purpose: processes the queue until nothing is ready, for schedulers without the worker: pg_cron, psql. Commits each batch. The
--   first p_limit requests are processed with care, one by one: if the last run was taken down by one, it is among them.
-- Parameters: p_limit, requests in a batch, 1 to 10,000; p_batches, how many batches at most.
-- Raises: TK003, and as process_ticket_queue; what was committed stays done, the next run goes on.
-- It commits, so it cannot have its owner's rights or settings of its own: it only calls functions that do.
set role farebox_owner;

create procedure farebox.drain_ticket_queue(p_limit int default 100, p_batches int default 10000)
language plpgsql security invoker
as $$
declare
  v_queue_id bigint;
  v_taken int;
begin
  if (p_limit between 1 and 10000) is not true then
    raise exception using errcode = 'TK003',
      message = format('the limit is %s', coalesce(p_limit::text, 'null')),
      hint = 'pass a limit from 1 to 10000';
  elsif (p_batches >= 1) is not true then
    raise exception using errcode = 'TK003',
      message = format('the number of batches is %s', coalesce(p_batches::text, 'null')),
      hint = 'pass at least one batch';
  end if;

  for v_count in 1 .. p_limit loop
    v_queue_id := farebox.begin_queued_request();
    commit;
    exit when v_queue_id is null;
    perform from farebox.process_queued_request(v_queue_id);
    commit;
  end loop;
  for v_count in 1 .. p_batches loop
    select p.taken into v_taken from farebox.process_ticket_queue(p_limit) as p;
    commit;
    if v_taken = 0 then
      -- What is left may be requests whose last attempt began and never ended: they are processed with care only.
      v_queue_id := farebox.begin_queued_request(p_unfinished_only => true);
      commit;
      exit when v_queue_id is null;
      perform from farebox.process_queued_request(v_queue_id);
      commit;
    end if;
  end loop;
end
$$;

comment on procedure farebox.drain_ticket_queue(int, int) is
  'Processes the queue until nothing is ready, committing each batch; for pg_cron and psql';

reset role;
