-- Purpose: writes the transaction records that could not be written when their tickets were created.
-- Parameters: p_limit, 1 to 10,000.  Returns: how many it wrote; call again while that is p_limit.
-- Raises: TK003.  Locks and writes: tickets (rows, those another repair holds are left to it), transactions.
set role farebox_owner;

create function farebox.record_missing_transactions(p_limit int default 1000)
returns int
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
declare
  v_tickets farebox._ticket_request[];
  v_recorded record;
  v_written int := 0;
  v_after uuid := '00000000-0000-0000-0000-000000000000'::uuid;
begin
  perform farebox._check_limit(p_limit, 10000);

  -- A loop, because records that cannot be written must not stand in the way of those behind them.
  loop
    select array_agg(farebox._record_of(t.*) order by t.id), max(t.id::text collate "C")::uuid
    into v_tickets, v_after
    from (
      select t.*
      from farebox.tickets as t
      where t.id > v_after and not exists (select from farebox.transactions as x where x.ticket_id = t.id)
      order by t.id
      limit p_limit - v_written
      for no key update skip locked
    ) as t;
    exit when v_tickets is null;
    v_recorded := farebox._record_transactions(v_tickets, farebox._now());
    v_written := v_written + v_recorded.written;
    exit when v_written >= p_limit;
  end loop;
  return v_written;
end
$$;

comment on function farebox.record_missing_transactions(int) is
  'Writes transaction records that are missing, exactly once each; how many it wrote';

reset role;
