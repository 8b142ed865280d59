-- Purpose: as db/functions/retry_queued_requests.sql and drop_queued_requests.sql: every shard is asked, the one that has the request acts.
-- Raises: TK002, TK003; 57P03 when a shard is lost, whatever the others have done: the same call again does the rest.
set role farebox_owner;

create or replace function farebox.retry_queued_requests(p_keys text[])
returns table (key text, queue_id bigint)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
#variable_conflict use_column
declare
  v_message text;
  v_detail text;
  v_hint text;
  v_at int;
  v_keys text[] := '{}';
  v_ids bigint[] := '{}';
  v_found record;
begin
  perform farebox._read_queue_keys(p_keys);
  for v_at in select distinct p.at from farebox.partitions as p order by p.at loop
    select array_agg(r.key) as keys, array_agg(r.queue_id) as ids into v_found
    from farebox._at_retry_queued_requests(v_at, p_keys) as r
    where r.queue_id is not null;
    v_keys := v_keys || v_found.keys;
    v_ids := v_ids || v_found.ids;
  end loop;
  perform farebox._wake_workers();
  return query
    select k.key, (select max(f.id) from unnest(v_keys, v_ids) as f(key, id) where f.key = k.key)
    from unnest(p_keys) with ordinality as k(key, ordinal)
    order by k.ordinal;
exception when others then
  get stacked diagnostics v_message = message_text, v_detail = pg_exception_detail, v_hint = pg_exception_hint;
  perform farebox._raise_from_shard(sqlstate, v_message, v_detail, v_hint);
  raise;
end
$$;

create or replace function farebox.drop_queued_requests(p_keys text[])
returns table (key text, company_id uuid, monime_transaction_id text, reason text, request json)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
#variable_conflict use_column
declare
  v_message text;
  v_detail text;
  v_hint text;
  v_at int;
  v_dropped record;
begin
  perform farebox._read_queue_keys(p_keys);
  for v_at in select distinct p.at from farebox.partitions as p order by p.at loop
    for v_dropped in select r.* from farebox._at_drop_queued_requests(v_at, p_keys) as r loop
      key := v_dropped.key;
      company_id := v_dropped.company_id;
      monime_transaction_id := v_dropped.monime_transaction_id;
      reason := v_dropped.reason;
      request := v_dropped.request;
      return next;
      -- Its claim goes back to nobody, if nothing came of it.
      if company_id is not null and monime_transaction_id is not null and (select s.has_registry from farebox.sharding as s) then
        perform farebox._release_claim(monime_transaction_id, company_id);
      end if;
    end loop;
  end loop;
exception when others then
  get stacked diagnostics v_message = message_text, v_detail = pg_exception_detail, v_hint = pg_exception_hint;
  perform farebox._raise_from_shard(sqlstate, v_message, v_detail, v_hint);
  raise;
end
$$;

-- A claim of which nothing is left goes back to nobody, as if another company called nobody had asked for the payment.
create or replace function farebox._release_claim(p_payment text, p_company_id uuid)
returns void
language plpgsql volatile security invoker
as $$
declare
  c_nobody constant uuid := '00000000-0000-0000-0000-000000000000';
begin
  perform farebox._settle_claim('p', p_payment, c_nobody, p_company_id,
    coalesce((
      select c.number
      from farebox._at_claim(array[farebox._partition_of(p_payment)], 'p', array[array[farebox._partition_of(p_payment)]::text],
        array[array[p_payment]::text], array[array[p_company_id]::text]) as c), 1),
    false);
end
$$;
comment on function farebox._release_claim(text, uuid) is 'Internal: gives a claim of which nothing is left back to nobody';

reset role;
