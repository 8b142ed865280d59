-- Purpose: tells payments the queue gave up from those that were rejected by a rule.
-- Parameters: p_reason, of an unapplied payment.  Returns: whether it is one of the queue's.
set role farebox_owner;

create function farebox._is_given_up(p_reason text)
returns boolean
language sql immutable security invoker parallel safe
as $$ select p_reason = 'unfinished' or starts_with(p_reason, 'error_') $$;

comment on function farebox._is_given_up(text) is 'Internal: whether the queue gave the payment up for this reason';

reset role;
