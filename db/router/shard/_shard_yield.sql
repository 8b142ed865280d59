-- Purpose: a company gives up a claim that came to nothing, because another company asks for the payment or code.
-- Parameters: p_partition and p_company_id, whose claim it is; p_kind, p_subject, p_number of the claim.
-- Returns: is_kept, it came to a ticket or a code after all, and is kept; its ticket; whether an unapplied payment waits here.
-- Raises: 55P03.  Locks and writes: own_partitions EXCLUSIVE (everybody who makes tickets here has committed by then, and later ones
--   see what is written here), foreign_subjects.
set role farebox_owner;

create or replace function farebox._shard_yield(
  p_partition int, p_company_id uuid, p_kind text, p_subject text, p_number int)
returns table (is_kept boolean, ticket_id uuid, is_open boolean)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
set lock_timeout = '2s'
as $$
declare
  v_ticket_id uuid;
  v_is_kept boolean;
begin
  -- Whoever asks for a payment that has its ticket, again and again, must not make everybody wait. (Of whichever company here: a
  -- second ticket is what must not be.)
  v_ticket_id := (
    select t.id from farebox.tickets as t where t.monime_transaction_id = case when p_kind = 'p' then p_subject end collate "C");
  if v_ticket_id is not null then
    return query select true, v_ticket_id, false;
    return;
  end if;

  lock table farebox.own_partitions in exclusive mode;
  perform farebox._require_open(array[p_partition]);  -- with this lock nobody waits for a mover, who wants it too

  if p_kind = 'p' then
    v_ticket_id := (select t.id from farebox.tickets as t where t.monime_transaction_id = p_subject collate "C");
    v_is_kept := v_ticket_id is not null;
  else
    v_is_kept := exists (select from farebox.payment_codes as k where k.code = p_subject collate "C");
  end if;
  if not v_is_kept then
    insert into farebox.foreign_subjects as f (kind, subject, company_id, number, since)
    values (p_kind::"char", p_subject, p_company_id, p_number, farebox._now())
    on conflict (subject, kind, company_id) do update set number = greatest(f.number, excluded.number);
  end if;
  return query select v_is_kept, v_ticket_id, p_kind = 'p' and exists (
    select from farebox.unapplied_payments as u
    where u.monime_transaction_id = p_subject collate "C" and u.resolved_at is null);
end
$$;

comment on function farebox._shard_yield(int, uuid, text, text, int) is
  'For the router: a company gives up a claim that came to nothing';

reset role;
