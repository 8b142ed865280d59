-- Purpose: counts answers that leave no row behind, for metrics_tickets(). What counts is PostgreSQL itself, see tables/tally.sql.
-- Parameters: how many.  Returns: nothing.
set role farebox_owner;

create function farebox._count_outcomes(p_duplicates int, p_conflicts int, p_rejections int)
returns void
language plpgsql volatile security invoker
as $$
begin
  -- Loops, because there are 200 marks. Nothing is fetched: the offset passes over all that is read.
  for v_counted in 0 .. p_duplicates - 1 by 200 loop
    perform from farebox.tally as t where t.duplicates <= p_duplicates - v_counted offset 200;
  end loop;
  for v_counted in 0 .. p_conflicts - 1 by 200 loop
    perform from farebox.tally as t where t.conflicts <= p_conflicts - v_counted offset 200;
  end loop;
  for v_counted in 0 .. p_rejections - 1 by 200 loop
    perform from farebox.tally as t where t.rejections <= p_rejections - v_counted offset 200;
  end loop;
end
$$;

comment on function farebox._count_outcomes(int, int, int) is 'Internal: counts duplicates, conflicts and rejections';

reset role;
