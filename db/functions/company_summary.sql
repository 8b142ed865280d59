-- Purpose: a company's sales in a span of time.
-- Parameters: p_from (null = from the first), p_to (null = to the last), half-open.  Returns: one row, or none when there is no such company.
--   Gross, commission and net amount (minor units) count every ticket that was not cancelled.
set role farebox_owner;

create function farebox.company_summary(p_company_id uuid, p_from timestamptz default null, p_to timestamptz default null)
returns table (company_id uuid, tickets bigint, pending bigint, used bigint, expired bigint, cancelled bigint,
  gross bigint, commission bigint, net_amount bigint)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
set jit = off
as $$
#variable_conflict use_column
begin
  -- The money comes from the tickets themselves: a record that is still missing must not make a company's sales look smaller.
  return query
    select
      c.id,
      count(t.id),
      count(t.id) filter (where t.status = 'pending'),
      count(t.id) filter (where t.status = 'used'),
      count(t.id) filter (where t.status = 'expired'),
      count(t.id) filter (where t.status = 'cancelled'),
      coalesce(sum(t.amount) filter (where t.status <> 'cancelled'), 0)::bigint,
      coalesce(sum(farebox._commission(t.amount, t.commission_rate)) filter (where t.status <> 'cancelled'), 0)::bigint,
      coalesce(sum(t.amount - farebox._commission(t.amount, t.commission_rate)) filter (where t.status <> 'cancelled'), 0)::bigint
    from farebox.companies as c
    left join farebox.tickets as t on t.company_id = c.id
      and t.created_at >= coalesce(p_from, '-infinity') and t.created_at < coalesce(p_to, 'infinity')
    where c.id = p_company_id
    group by c.id;
end
$$;

comment on function farebox.company_summary(uuid, timestamptz, timestamptz) is
  'A company''s tickets by status, gross, commission and net amount in a span of time';

reset role;
