-- Purpose: how long a request rests after a failed attempt.
-- Parameters: p_attempts, how many have failed.  Returns: 100 ms x 2^(n-1), and up to half as much again by chance, so that what
--   failed together does not come back together.
set role farebox_owner;

create function farebox._backoff(p_attempts int)
returns interval
language sql volatile security invoker parallel safe
as $$ select interval '100 ms' * 2 ^ (p_attempts - 1) * (1 + random() / 2) $$;

comment on function farebox._backoff(int) is 'How long a request rests after so many failed attempts';

reset role;
