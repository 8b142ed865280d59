-- Purpose: wakes the workers that sleep, and nobody when none does.
-- The bell is a sequence, seen and changed by all sessions at once: the first producer after a worker lay down notifies, at its
--   commit, and no other does, or all producers' commits would queue for the one lock of NOTIFY. If that producer rolls back,
--   workers look for themselves within their flush interval.  Writes: ticket_queue_bell; NOTIFY farebox_queue, without payload.
set role farebox_owner;

create function farebox._wake_workers()
returns void
language plpgsql volatile security invoker
as $$
begin
  if pg_sequence_last_value('farebox.ticket_queue_bell') = 1 then
    perform setval('farebox.ticket_queue_bell', 0);
    perform pg_notify('farebox_queue', '');
  end if;
end
$$;

comment on function farebox._wake_workers() is 'Internal: wakes sleeping workers by NOTIFY, if there are any';

reset role;
