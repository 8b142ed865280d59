-- Purpose: lets a company's queued requests wait, those to come too, until resume_company_queue. What is being processed ends.
-- Parameters: p_company_id.  Returns: how many of its requests wait now.
-- Locks and writes: an advisory lock of operators, ticket_queue_pauses, ticket_queue (its requests; a million of them take some ten seconds).
set role farebox_owner;

create function farebox.pause_company_queue(p_company_id uuid)
returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
begin
  if p_company_id is null then
    raise exception using errcode = 'TK003', message = 'the company is null', hint = 'pass its id';
  end if;
  -- One operator at a time: those who retry and those who pause or resume lock the same requests and pauses, each in an order of its own.
  perform pg_advisory_xact_lock('farebox.ticket_queue'::regclass::oid::int, 2);
  -- Locked also when it is there already: whoever resumes the company at this moment comes before or after all of this.
  insert into farebox.ticket_queue_pauses as p (company_id, paused_at) values (p_company_id, farebox._now())
  on conflict (company_id) do update set paused_at = p.paused_at;
  -- Out of the line, or every claim would have to pass them.
  update farebox.ticket_queue as q
  set rank = null, ready_at = null
  where q.company_id = p_company_id and (q.rank is not null or q.ready_at is not null);
  return (select count(*) from farebox.ticket_queue as q where q.company_id = p_company_id);
end
$$;

comment on function farebox.pause_company_queue(uuid) is 'Lets a company''s queued requests wait until it is resumed';

reset role;
