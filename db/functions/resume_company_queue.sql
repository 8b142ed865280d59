-- Purpose: puts a paused company's requests back in line, in the order they came, behind nobody and in front of nobody else's.
-- Parameters: p_company_id.  Returns: how many went back in line.
-- Raises: TK004 unless READ COMMITTED: an older snapshot would not see the latest requests, and those would wait for ever.
-- Locks and writes: an advisory lock of operators, ticket_queue_pauses, ticket_queue (its requests; a million of them take some ten seconds).
set role farebox_owner;

create function farebox.resume_company_queue(p_company_id uuid)
returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
declare
  v_floor bigint := farebox._hold_queue_floor();
  v_resumed bigint;
begin
  if current_setting('transaction_isolation') not like 'read %' then
    raise exception using errcode = 'TK004',
      message = format('a queue cannot be resumed in isolation level %s', current_setting('transaction_isolation')),
      hint = 'resume it in a transaction of isolation level read committed';
  end if;
  -- One operator at a time: those who retry and those who pause or resume lock the same requests and pauses, each in an order of its own.
  perform pg_advisory_xact_lock('farebox.ticket_queue'::regclass::oid::int, 2);
  delete from farebox.ticket_queue_pauses as p where p.company_id = p_company_id;
  update farebox.ticket_queue as q
  set
    rank = case when q.attempts = 0 then p.rank end,
    ready_at = case when q.attempts > 0 then farebox._now() end  -- where it was: what began and never ended needs care
  from (
    select q.id, v_floor + row_number() over (order by q.id) as rank
    from farebox.ticket_queue as q
    where q.company_id = p_company_id and q.rank is null and q.ready_at is null
  ) as p
  where q.id = p.id;
  get diagnostics v_resumed = row_count;
  perform farebox._wake_workers();
  return v_resumed;
end
$$;

comment on function farebox.resume_company_queue(uuid) is 'Puts a paused company''s queued requests back in line';

reset role;
