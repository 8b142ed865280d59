-- Purpose: brings the planner's statistics up to date where much has changed; for logins that may not analyze the tables themselves.
-- Parameters: p_share, of a table's rows that have changed since, 0 to 1 (0 = all tables).  Returns: the tables it analyzed.
-- Raises: TK003.  Locks: the tables against vacuum and other analyzes; a table that is locked so is left out.
set role farebox_owner;

create function farebox.analyze_tables(p_share double precision default 0.1)
returns setof text
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
declare
  v_table text;
begin
  if p_share is null or p_share not between 0 and 1 then
    raise exception using errcode = 'TK003',
      message = format('the share is %s', coalesce(p_share::text, 'null')), hint = 'pass a share from 0 to 1';
  end if;

  -- A loop, because ANALYZE takes names, not rows. In order of names, so that two callers cannot wait for each other.
  for v_table in
    select s.relname::text
    from pg_stat_all_tables as s
    where s.schemaname = 'farebox'
      and (p_share = 0 or s.n_mod_since_analyze > 50 + p_share * s.n_live_tup)
    order by s.relname
  loop
    execute format('analyze (skip_locked) farebox.%I', v_table);
    return next v_table;
  end loop;
end
$$;

comment on function farebox.analyze_tables(double precision) is 'Brings the statistics of tables that have changed up to date; their names';

reset role;
