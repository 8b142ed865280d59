-- Purpose: the id from which the tickets of a batch are numbered. On a shard the router names it (db/router), so that a call that is
--   made again after an answer was lost knows its own tickets.
-- Returns: a time-ordered UUID; its last four digits are replaced by each element's place in the batch.
set role farebox_owner;

create function farebox._batch_id()
returns uuid
language sql volatile security invoker
as $$ select farebox._uuid_v7() $$;

comment on function farebox._batch_id() is 'Internal: the id from which the tickets of a batch are numbered';

reset role;
