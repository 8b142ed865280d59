-- Purpose: has the floor follow what was claimed, such that nothing is left below: it rises to the next floor once nothing in line is
--   lower and all who rank by a lower one have committed or rolled back (see _hold_queue_floor). Whoever stays longer than 5 s is not
--   waited for, or one stuck session would have all claims wade through what was deleted since; the sweep finds what it leaves.
-- Parameters: p_first, the lowest rank the caller has claimed.
-- Locks and writes: advisory locks, for an instant, never waiting; ticket_queue_floor, _next_floor, _generation, _tick.
set role farebox_owner;

create function farebox._raise_queue_floor(p_first bigint)
returns void
language plpgsql volatile security invoker
set enable_sort = off
as $$
declare
  c_generations constant int := 'farebox.ticket_queue_generation'::regclass::oid::int;
  v_clock bigint := (date_part('epoch', clock_timestamp()) * 1000)::bigint;  -- the real one: this is housekeeping, no rule
  v_floor bigint;
  v_next_floor bigint;
  v_generation bigint;
  v_tick bigint;
  v_lowest bigint;
begin
  if current_setting('transaction_isolation') not like 'read %' then
    return;  -- it sees what was, not what is
  end if;
  begin
    <<turn>>
    begin
      -- One at a time; whoever comes second leaves it be.
      exit turn when not pg_try_advisory_xact_lock('farebox.ticket_queue'::regclass::oid::int, 2);
      v_floor := coalesce(pg_sequence_last_value('farebox.ticket_queue_floor'), 0);
      v_next_floor := coalesce(pg_sequence_last_value('farebox.ticket_queue_next_floor'), 0);
      v_generation := coalesce(pg_sequence_last_value('farebox.ticket_queue_generation'), 0);
      v_tick := coalesce(pg_sequence_last_value('farebox.ticket_queue_tick'), 0);
      exit turn when v_tick between v_clock + 1 and v_clock + 60000;

      if v_tick between v_clock - 5000 and v_clock then
        exit turn when p_first < v_next_floor
          or not pg_try_advisory_xact_lock(c_generations, ((v_generation - 1) % 2147483648)::int);
        v_lowest := (select q.rank from farebox.ticket_queue as q where q.rank >= v_floor order by q.rank limit 1);
        exit turn when v_lowest < v_next_floor;
      end if;
      if v_next_floor > v_floor then
        perform setval('farebox.ticket_queue_floor', least(v_next_floor, p_first));
      end if;
      perform setval('farebox.ticket_queue_next_floor', p_first);
      -- Only now: whoever ranks by the number before holds the generation before.
      perform setval('farebox.ticket_queue_generation', v_generation + 1), setval('farebox.ticket_queue_tick', v_clock + 50);
    end;
    raise exception using errcode = 'TK000', message = 'the locks are given back';
  exception when sqlstate 'TK000' then
    null;
  end;
end
$$;

comment on function farebox._raise_queue_floor(bigint) is 'Internal: has the floor of the queue follow what was claimed';

reset role;
