-- Purpose: the rank behind which new requests go in line, for the rest of the caller's transaction: the floor does not rise above it.
-- Returns: ticket_queue_next_floor.
-- Locks: an advisory lock, shared: the generation of that number. It waits for nobody (_raise_queue_floor has it for an instant).
set role farebox_owner;

create function farebox._hold_queue_floor()
returns bigint
language plpgsql volatile security invoker
as $$
declare
  v_generation bigint := coalesce(pg_sequence_last_value('farebox.ticket_queue_generation'), 0);
  v_present bigint;
  v_floor bigint;
begin
  -- A loop, because until we have the lock of the generation, it may have come to its end.
  loop
    perform pg_advisory_xact_lock_shared('farebox.ticket_queue_generation'::regclass::oid::int, (v_generation % 2147483648)::int);
    v_present := coalesce(pg_sequence_last_value('farebox.ticket_queue_generation'), 0);
    v_floor := coalesce(pg_sequence_last_value('farebox.ticket_queue_next_floor'), 0);
    exit when v_present = v_generation;
    v_generation := v_present;
  end loop;
  return v_floor;
end
$$;

comment on function farebox._hold_queue_floor() is 'Internal: the rank behind which the caller''s requests go in line';

reset role;
