-- Purpose: as db/functions/retry_queued_requests.sql and drop_queued_requests.sql: every shard is asked, the one that has the request acts.
-- Raises: TK002, TK003; 57P03 when a shard is lost. Of what is retried the others have done their part then: the same call again does
--   the rest. Nothing is dropped then; only if a shard is lost in the middle, that is a warning: what was dropped must be told.
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
  v_payments text[] := '{}';
  v_companies uuid[] := '{}';
begin
  perform farebox._read_queue_keys(p_keys);
  perform farebox._at_ping(a.at) from (select distinct p.at from farebox.partitions as p) as a;
  for v_at in select distinct p.at from farebox.partitions as p order by p.at loop
    begin
      for v_dropped in select r.* from farebox._at_drop_queued_requests(v_at, p_keys) as r loop
        key := v_dropped.key;
        company_id := v_dropped.company_id;
        monime_transaction_id := v_dropped.monime_transaction_id;
        reason := v_dropped.reason;
        request := v_dropped.request;
        return next;
        if company_id is not null and monime_transaction_id is not null then
          v_payments := v_payments || monime_transaction_id;
          v_companies := v_companies || company_id;
        end if;
      end loop;
    exception when others or query_canceled then
      perform farebox._skip_lost_shard(sqlstate, sqlerrm);
      raise warning using
        message = 'a shard is not available: nothing of it was dropped, as far as is known',
        hint = 'try again; farebox shards status tells which';
    end;
  end loop;
  if (select s.has_registry from farebox.sharding as s) then
    perform farebox._release_claims(v_payments, v_companies);
  end if;
exception when others then
  get stacked diagnostics v_message = message_text, v_detail = pg_exception_detail, v_hint = pg_exception_hint;
  perform farebox._raise_from_shard(sqlstate, v_message, v_detail, v_hint);
  raise;
end
$$;

-- Claims of which nothing is left go back to nobody: no ticket, no kept payment, and no other request that waits.
create or replace function farebox._release_claims(p_payments text[], p_companies uuid[])
returns void
language plpgsql volatile security invoker
as $$
declare
  c_nobody constant uuid := '00000000-0000-0000-0000-000000000000';
  v_part record;
  v_unused record;
  v_home int;
  v_claim record;
begin
  -- Loops over what was dropped, by shard.
  for v_part in
    select m.at, array_agg(d.payment)::text as payments, array_agg(d.company_id)::text as companies
    from (select distinct d.payment, d.company_id from unnest(p_payments, p_companies) as d(payment, company_id)) as d
    join farebox.partitions as m on m.partition = farebox._partition_of(d.company_id::text)
    group by m.at
  loop
    begin
      for v_unused in
        select u.* from farebox._at_unused(array[v_part.at], array[v_part.payments], array[v_part.companies]) as u
      loop
        v_home := farebox._partition_of(v_unused.subject);
        select c.company_id, c.number into v_claim
        from farebox._at_claim(array[v_home], 'p', array[array[v_home]::text], array[array[v_unused.subject]::text],
          array[array[v_unused.company_id]::text]) as c;
        continue when v_claim.company_id <> v_unused.company_id;  -- another one has it by now
        if not (
          select y.is_kept
          from farebox._at_yield(farebox._partition_of(v_unused.company_id::text), v_unused.company_id, 'p', v_unused.subject,
            coalesce(v_claim.number, 1)) as y)
        then
          perform from farebox._at_take_over(
            v_home, 'p', v_unused.subject, v_unused.company_id, coalesce(v_claim.number, 1), c_nobody);
        end if;
      end loop;
    exception when others or query_canceled then
      perform farebox._skip_lost_shard(sqlstate, sqlerrm);  -- the claim stays: verify() tells, and whoever asks gets it
    end;
  end loop;
end
$$;
comment on function farebox._release_claims(text[], uuid[]) is 'Internal: gives claims of which nothing is left back to nobody';

reset role;
