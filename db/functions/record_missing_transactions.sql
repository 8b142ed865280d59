-- Purpose: writes the transaction records that could not be written when their tickets were created.
-- Parameters: p_limit, 1 to 10,000.  Returns: how many it wrote; call again while that is p_limit.
-- Raises: TK003.  Locks and writes: tickets (rows, those another repair holds are left to it), transactions.
set role farebox_owner;

create function farebox.record_missing_transactions(p_limit int default 1000)
returns int
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_tickets farebox._ticket_request[];
  v_written int := 0;
begin
  perform farebox._check_limit(p_limit, 10000);

  select array_agg(farebox._record_of(t.*) order by t.id)
  into v_tickets
  from (
    select t.*
    from farebox.tickets as t
    where not exists (select from farebox.transactions as x where x.ticket_id = t.id)
    limit p_limit
    for no key update skip locked
  ) as t;
  if v_tickets is not null then
    select r.written into v_written from farebox._record_transactions(v_tickets, farebox._now()) as r;
  end if;
  return v_written;
end
$$;

comment on function farebox.record_missing_transactions(int) is
  'Writes transaction records that are missing, exactly once each; how many it wrote';

reset role;
