-- Purpose: the core's functions that look at all rows, without those that are here only because a partition is moving.
-- Parameters, returns, raises: as db/functions. What a copy would be changed by waits until it is complete.
set role farebox_owner;

-- Whether a company's partition lives here, open or not.
create or replace function farebox._lives_here(p_company_id uuid)
returns boolean
language sql stable security invoker
as $$
  select exists (select from farebox.own_partitions as o where o.partition = farebox._partition_of(p_company_id::text))
$$;
comment on function farebox._lives_here(uuid) is 'Internal: whether a company''s partition lives here, open or not';

-- The partition of a request that is kept: of its company, else of its payment, as the router finds the shard.
create or replace function farebox._partition_of_request(p_company_id uuid, p_request json, p_payment text default null)
returns int
language plpgsql stable security invoker
as $$
declare
  v_company_id uuid := nullif(p_company_id, '00000000-0000-0000-0000-000000000000');
  v_payment text := p_payment;
begin
  if v_company_id is null then
    select q.company_id, coalesce(v_payment, q.transaction_id) into v_company_id, v_payment from farebox._queued_payment(p_request) as q;
  end if;
  return case
    when v_company_id is not null then farebox._partition_of(v_company_id::text)
    when v_payment is not null then farebox._partition_of(v_payment)
    else 0
  end;
end
$$;
comment on function farebox._partition_of_request(uuid, json, text) is 'Internal: the partition of a request that is kept';

-- The partition of an unapplied payment: of its ticket, if that is here, else of its request.
create or replace function farebox._partition_of_payment(p_payment farebox.unapplied_payments)
returns int
language plpgsql stable security invoker
as $$
begin
  return coalesce(
    (select farebox._partition_of(t.company_id::text) from farebox.tickets as t where t.id = p_payment.ticket_id),
    farebox._partition_of_request(p_payment.company_id, p_payment.request, p_payment.monime_transaction_id));
end
$$;
comment on function farebox._partition_of_payment(farebox.unapplied_payments) is 'Internal: the partition of an unapplied payment';

create or replace function farebox._shard_list_companies(p_limit int, p_after_id uuid)
returns setof farebox.companies
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
begin
  return query
    select c.* from farebox.companies as c
    where (p_after_id is null or c.id > p_after_id)
      and farebox._lives_here(c.id)
    order by c.id
    limit p_limit;
end
$$;
comment on function farebox._shard_list_companies(int, uuid) is 'For the router: companies that live here';

create or replace function farebox._shard_verify()
returns setof farebox.violation
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
set jit = off
as $$
begin
  if not exists (select from farebox.stray_partitions) then
    return query select v.* from farebox.verify() as v;
    return;
  end if;
  return query select v.* from farebox.verify() as v where not farebox._is_of_stray(v.subject);
end
$$;
comment on function farebox._shard_verify() is 'For the router: verify, without the rows of partitions that are just moving';

-- Whether what verify found is of a partition that is only being copied here, or removed.
create or replace function farebox._is_of_stray(p_subject text)
returns boolean
language plpgsql stable security invoker
as $$
declare
  v_key text := substr(p_subject, position(' ' in p_subject) + 1);
  v_partition int;
begin
  case split_part(p_subject, ' ', 1)
    when 'ticket' then
      v_partition := (select farebox._partition_of(t.company_id::text) from farebox.tickets as t where t.id = v_key::uuid);
    when 'transaction' then
      v_partition := (select farebox._partition_of(x.company_id::text) from farebox.transactions as x where x.ticket_id = v_key::uuid);
    when 'payment_code' then
      v_partition := (select farebox._partition_of(k.company_id::text) from farebox.payment_codes as k where k.id = v_key::uuid);
    else
      v_partition := (
        select farebox._partition_of_payment(u.*) from farebox.unapplied_payments as u where u.monime_transaction_id = v_key collate "C");
  end case;
  return exists (select from farebox.stray_partitions as s where s.partition = v_partition);
end
$$;
comment on function farebox._is_of_stray(text) is 'Internal: whether a violation is of a partition that is just moving';

create or replace function farebox._shard_record_missing_transactions(p_limit int)
returns int
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
begin
  if exists (select from farebox.stray_partitions) then
    return 0;
  end if;
  return farebox.record_missing_transactions(p_limit);
end
$$;
comment on function farebox._shard_record_missing_transactions(int) is
  'For the router: writes missing records, but not while a partition is just moving: a copied ticket may be ahead of its record';

create or replace function farebox._shard_expire_payment_codes(p_limit int)
returns int
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
begin
  if exists (select from farebox.stray_partitions) then
    return 0;
  end if;
  return farebox.expire_payment_codes(p_limit);
end
$$;
comment on function farebox._shard_expire_payment_codes(int) is
  'For the router: marks codes whose time is over, but not while a partition is just moving: a copied code must stay as it is';

reset role;
