-- Purpose: counts what becomes of queued requests that failed, for metrics_retries(). What counts is PostgreSQL itself, see tables/tally.sql.
-- Parameters: how many are to be tried again, how many were given up.  Returns: nothing.
set role farebox_owner;

create function farebox._count_retries(p_retries int, p_given_up int)
returns void
language plpgsql volatile security invoker
as $$
begin
  -- Loops, because there are 200 marks. Nothing is fetched: the offset passes over all that is read.
  for v_counted in 0 .. p_retries - 1 by 200 loop
    perform from farebox.tally as t where t.retries <= p_retries - v_counted offset 200;
  end loop;
  for v_counted in 0 .. p_given_up - 1 by 200 loop
    perform from farebox.tally as t where t.given_up <= p_given_up - v_counted offset 200;
  end loop;
end
$$;

comment on function farebox._count_retries(int, int) is 'Internal: counts queued requests that are tried again or given up';

reset role;
