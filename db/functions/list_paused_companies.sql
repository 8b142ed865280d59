-- Purpose: which companies' queued requests wait for resume_company_queue.
-- Returns: each, longest paused first, with the number of its requests.
set role farebox_owner;

create function farebox.list_paused_companies()
returns table (company_id uuid, paused_at timestamptz, waiting bigint)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
begin
  return query
    select p.company_id, p.paused_at, (select count(*) from farebox.ticket_queue as q where q.company_id = p.company_id)
    from farebox.ticket_queue_pauses as p
    order by p.paused_at, p.company_id;
end
$$;

comment on function farebox.list_paused_companies() is 'Companies whose queued requests are paused';

reset role;
