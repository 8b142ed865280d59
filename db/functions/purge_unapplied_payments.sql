-- Purpose: removes kept payments that have their tickets since long. What is open is never removed: it is money.
-- Parameters: p_before, those resolved before; p_limit, 1 to 10,000.  Returns: how many it removed; call again while that is p_limit.
-- Raises: TK003.  Locks and writes: unapplied_payments; those in use right now are left to the next call.
set role farebox_owner;

create function farebox.purge_unapplied_payments(p_before timestamptz, p_limit int default 1000)
returns int
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
declare
  v_purged int;
begin
  perform farebox._check_limit(p_limit, 10000);
  if p_before is null or p_before > farebox._now() then
    raise exception using errcode = 'TK003',
      message = format('the time is %s', coalesce(p_before::text, 'null')),
      hint = 'pass a time that is past: what was resolved before it is removed';
  end if;

  delete from farebox.unapplied_payments as u
  where u.monime_transaction_id = any (array(
    select p.monime_transaction_id from farebox.unapplied_payments as p
    where p.resolved_at < p_before
    order by p.monime_transaction_id
    limit p_limit
    for update skip locked));
  get diagnostics v_purged = row_count;
  return v_purged;
end
$$;

comment on function farebox.purge_unapplied_payments(timestamptz, int) is
  'Removes unapplied payments that were resolved before a time; how many';

reset role;
