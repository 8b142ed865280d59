-- Purpose: the uses that tickets just written make of their codes, where not every candidate became one: repetitions, and what was lost to
--   another caller.
-- Parameters: p_requests, as their tickets were written.
-- Returns: the codes, by id, the uses of each, and whether somebody was told that it is exhausted; nulls when there is nothing to charge.
set role farebox_owner;

create function farebox._count_uses(p_requests farebox._ticket_request[], out codes uuid[], out uses int[], out is_spent boolean[])
language plpgsql volatile security invoker
as $$
begin
  select
    array_agg(c.payment_code_id order by c.payment_code_id), array_agg(c.uses order by c.payment_code_id),
    array_agg(c.is_spent order by c.payment_code_id)
  into codes, uses, is_spent
  from (
    select r.payment_code_id, count(*) filter (where r.reason is null)::int as uses, bool_or(r.reason = 'code_exhausted') as is_spent
    from unnest(p_requests) as r
    where r.payment_code_id is not null and (r.reason = 'code_exhausted' or r.reason is null
      and (select t.id from farebox.tickets as t where t.id = r.ticket_id) is not null)
    group by r.payment_code_id
  ) as c
  where c.uses > 0;
end
$$;

comment on function farebox._count_uses(farebox._ticket_request[]) is
  'Internal: the uses that tickets just written make of their payment codes';

reset role;
