-- Purpose: a batch without what is nested so deeply that the JSON functions run out of stack on it.
-- Parameters: p_batch.  Returns: the batch; what lies deeper than 20 levels is cut out of it.
set role farebox_owner;

create function farebox._shallow_json(p_batch json)
returns json
language sql immutable strict security invoker parallel safe
as $$
  -- Read token by token: a string, a bracket, or what is between them; the depth after each token is known by counting.
  select string_agg(t.token, '' order by t.position)::json
  from (
    select m.position, m.token[1] as token,
      sum(case when m.token[1] in ('[', '{') then 1 when m.token[1] in (']', '}') then -1 else 0 end) over (order by m.position) as depth
    from regexp_matches(p_batch::text, '("(?:[^"\\]|\\.)*"|[][{}]|[^][{}"]+)', 'g') with ordinality as m(token, position)
  ) as t
  where t.depth < 20 or t.depth = 20 and t.token in ('[', '{')
$$;

comment on function farebox._shallow_json(json) is 'Internal: a batch without what is nested deeper than 20 levels';

reset role;
