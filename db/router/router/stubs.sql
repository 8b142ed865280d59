-- The functions that PL/Proxy sends to the shards. They belong to farebox_owner, who alone has the login to them (a user mapping), and
-- are called by the functions that follow. Loaded by a superuser: PL/Proxy is no trusted language.
do $$
declare
  v_stub record;
begin
  -- The cluster: farebox has time limits and may go by a PgBouncer; farebox_long has none, for what reads whole tables.
  for v_stub in
    select p.oid::regprocedure as signature from pg_proc as p join pg_language as l on l.oid = p.prolang
    where p.pronamespace = 'farebox'::regnamespace and l.lanname = 'plproxy'
  loop
    execute format('drop function %s', v_stub.signature);
  end loop;
end
$$;

create function farebox._at_claim(
  p_at int[], p_kind text, p_partitions text[], p_subjects text[], p_companies text[])
returns table (subject text, asking uuid, company_id uuid, number int, is_open boolean)
language plproxy
as $$ cluster 'farebox'; split p_at, p_partitions, p_subjects, p_companies; run on p_at; target farebox._shard_claim; $$;

create function farebox._at_create_tickets(p_at int[], p_partitions text[], p_ordinals text[], p_retaken text[],
  p_batch_ids uuid[], p_again boolean[], p_batches text[])
returns setof farebox.ticket_outcome
language plproxy
as $$ cluster 'farebox'; split all; run on p_at; target farebox._shard_create_tickets; $$;

create function farebox._at_enqueue_tickets(p_at int[], p_partitions text[], p_ordinals text[], p_retaken text[], p_denied text[],
  p_batches text[])
returns table (ordinal int, queue_id bigint)
language plproxy
as $$ cluster 'farebox'; split all; run on p_at; target farebox._shard_enqueue_tickets; $$;

create function farebox._at_queued_outcomes(p_at int[], p_ordinals text[], p_queue_ids text[], p_batches text[])
returns setof farebox.ticket_outcome
language plproxy
as $$ cluster 'farebox'; split all; run on p_at; target farebox._shard_queued_outcomes; $$;

create function farebox._at_change_catalog(p_at int[], p_function text, p_partitions text[], p_ordinals text[], p_retaken text[],
  p_batches text[])
returns setof farebox.catalog_outcome
language plproxy
as $$ cluster 'farebox'; split p_at, p_partitions, p_ordinals, p_retaken, p_batches; run on p_at; target farebox._shard_change_catalog; $$;

create function farebox._at_unclaimed(p_at int[], p_subjects text[], p_companies text[])
returns table (subject text, company_id uuid, claimed_by uuid)
language plproxy
as $$ cluster 'farebox_long'; split all; run on p_at; target farebox._shard_unclaimed; $$;

create function farebox._at_unused(p_at int[], p_subjects text[], p_companies text[])
returns table (subject text, company_id uuid)
language plproxy
as $$ cluster 'farebox_long'; split all; run on p_at; target farebox._shard_unused; $$;

create function farebox._at_ticket_page(p_partition int, p_after text)
returns table (subject text, company_id uuid, ticket_id uuid)
language plproxy
as $$ cluster 'farebox_long'; run on p_partition; target farebox._shard_ticket_page; $$;

create function farebox._at_claim_page(p_partition int, p_after text)
returns table (subject text, company_id uuid, is_young boolean)
language plproxy
as $$ cluster 'farebox_long'; run on p_partition; target farebox._shard_claim_page; $$;

create function farebox._at_yield(p_partition int, p_company_id uuid, p_kind text, p_subject text, p_number int)
returns table (is_kept boolean, ticket_id uuid, is_open boolean)
language plproxy
as $$ cluster 'farebox'; run on p_partition; target farebox._shard_yield; $$;

create function farebox._at_take_over(p_partition int, p_kind text, p_subject text, p_from uuid, p_number int, p_to uuid)
returns setof int
language plproxy
as $$ cluster 'farebox'; run on p_partition; target farebox._shard_take_over; $$;

create function farebox._at_resolve(p_partition int, p_subject text, p_ticket_id uuid)
returns boolean
language plproxy
as $$ cluster 'farebox'; run on p_partition; target farebox._shard_resolve; $$;

create function farebox._at_claimed_by(p_partition int, p_subject text)
returns setof uuid
language plproxy
as $$ cluster 'farebox'; run on p_partition; target farebox._shard_claimed_by; $$;

create function farebox._at_ticket_of(p_partition int, p_subject text)
returns setof uuid
language plproxy
as $$ cluster 'farebox'; run on p_partition; target farebox._shard_ticket_of; $$;

create function farebox._at_ping(p_partition int)
returns int
language plproxy
as $$ cluster 'farebox'; run on p_partition; select 1; $$;

create function farebox._at_refused_requests(p_at int)
returns table (id bigint, request json)
language plproxy
as $$ cluster 'farebox'; run on p_at; target farebox._shard_refused_requests; $$;

create function farebox._at_settle_refused(p_at int, p_id bigint, p_detail text)
returns void
language plproxy
as $$ cluster 'farebox'; run on p_at; target farebox._shard_settle_refused; $$;

create function farebox._at_open_payments(p_at int, p_limit int, p_reason text)
returns table (last_seen_at timestamptz, monime_transaction_id text, request json)
language plproxy
as $$ cluster 'farebox'; run on p_at; select * from farebox._shard_open_payments(p_limit, p_reason); $$;

-- What the shards offer under the same name, to be asked of one (by company, or by its place in the map) or of all. Of some the shards
-- have a form for routers, which leaves out what is there only because a partition is moving.
do $$
declare
  c_settings constant text := 'set search_path = pg_catalog, pg_temp set standard_conforming_strings = on';
  v_offered record;
  v_call text;
begin
  for v_offered in
    select
      f.kind, f.merge, p.proname as name, p.proretset as is_set, p.prorettype = 'void'::regtype as is_void,
      pg_get_function_arguments(p.oid) as arguments,
      pg_get_function_identity_arguments(p.oid) as parameters,
      pg_get_function_result(p.oid) as result,
      case p.provolatile when 's' then 'stable' else 'volatile' end as volatility,
      array_to_string(p.proargnames[1:p.pronargs], ', ') as names
    from (values
      ('get_company', 'company', ''),
      ('get_route', 'company', ''),
      ('get_payment_code', 'company', ''),
      ('list_routes', 'company', ''),
      ('list_payment_codes', 'company', ''),
      ('tickets_by_phone', 'company', ''),
      ('pending_tickets', 'company', ''),
      ('company_summary', 'company', ''),
      ('pause_company_queue', 'company', ''),
      ('resume_company_queue', 'company', ''),
      ('list_companies', 'all', 'select distinct on (a.id) a.* from %s as a order by a.id limit p_limit'),
      ('list_unapplied_payments', 'all', 'select a.* from %s as a order by a.last_seen_at, a.monime_transaction_id limit p_limit'),
      ('list_queued_requests', 'all', 'select a.* from %s as a order by a.queue_id limit p_limit'),
      ('list_dead_requests', 'all', 'select a.* from %s as a order by a.last_seen_at, a.key collate "C" limit p_limit'),
      ('list_paused_companies', 'all', 'select a.* from %s as a order by a.paused_at, a.company_id'),
      ('metrics_activity', 'all', 'select a.* from %s as a order by a.kind, a.tickets desc, a.name'),
      ('analyze_tables', 'all', 'select distinct a.t from %s as a(t)'),
      ('queue_size', 'sum', 'bigint'),
      ('record_missing_transactions', 'sum', 'int'),
      ('expire_payment_codes', 'sum', 'int'),
      ('purge_unapplied_payments', 'sum', 'int'),
      ('purge_dead_requests', 'sum', 'int'),
      ('process_ticket_queue', 'at', ''),
      ('begin_queued_request', 'at', ''),
      ('process_queued_request', 'at', ''),
      ('get_ticket', 'at', ''),
      ('bind_company_login', 'at', ''),
      ('queue_metrics', 'at', ''),
      ('metrics_tickets', 'at', ''),
      ('metrics_retries', 'at', ''),
      ('metrics_batches', 'at', ''),
      ('metrics_unapplied', 'at', ''),
      ('metrics_codes', 'at', ''),
      ('metrics_storage', 'at', ''),
      ('metrics_server', 'at', ''),
      ('verify', 'at', ''),
      ('retry_queued_requests', 'at', ''),
      ('drop_queued_requests', 'at', '')
    ) as f(name, kind, merge)
    join pg_proc as p on p.proname = f.name and p.pronamespace = 'farebox'::regnamespace
  loop
    if v_offered.kind = 'company' then
      execute format('create function farebox._at_%s(%s) returns %s language plproxy as %L',
        v_offered.name, v_offered.parameters, v_offered.result,
        format('cluster ''farebox''; run on farebox._partition_of(p_company_id::text); target farebox.%s;', v_offered.name));
    elsif v_offered.kind in ('all', 'sum') then
      execute format('create function farebox._at_%s(%s) returns %s%s language plproxy as %L',
        v_offered.name, v_offered.parameters, case when not v_offered.is_set then 'setof ' else '' end, v_offered.result,
        format('cluster ''farebox_long''; run on all; target farebox.%s%s;',
          case when v_offered.name in ('list_companies', 'record_missing_transactions', 'expire_payment_codes') then '_shard_' end,
          v_offered.name));
    else
      execute format('create function farebox._at_%s(p_at int%s) returns %s language plproxy as %L',
        v_offered.name, case when v_offered.parameters <> '' then ', ' else '' end || v_offered.parameters, v_offered.result,
        format('cluster ''%s''; run on p_at; select %sfarebox.%s%s(%s)%s;',
          case when v_offered.name ~ '^(verify|metrics)' then 'farebox_long' else 'farebox' end,
          case when v_offered.is_set then '* from ' else '' end, case when v_offered.name = 'verify' then '_shard_' end,
          v_offered.name, v_offered.names,
          case when not v_offered.is_set then ' as r' else '' end));
    end if;

    continue when v_offered.kind = 'at';
    v_call := format('farebox._at_%s(%s)', v_offered.name, v_offered.names);
    execute format('create or replace function farebox.%s(%s) returns %s language plpgsql %s security definer %s as %L',
      v_offered.name, v_offered.arguments, v_offered.result, v_offered.volatility, c_settings, format(
      '#variable_conflict use_column
declare
  v_message text;
  v_detail text;
  v_hint text;
begin
%s  %s;
exception when others or query_canceled then
  if sqlstate = ''57014'' and sqlerrm not like ''%%REMOTE%%'' then
    raise;
  end if;
  get stacked diagnostics v_message = message_text, v_detail = pg_exception_detail, v_hint = pg_exception_hint;
  perform farebox._raise_from_shard(sqlstate, v_message, v_detail, v_hint);
  raise;
end',
      case when v_offered.names ~ '\mp_limit\M' and v_offered.kind <> 'company' then format(
        '  perform farebox._check_limit(p_limit, %s);' || E'\n',
        case when v_offered.kind = 'sum' then 10000 else 1000 end) else '' end,
      case
        when v_offered.kind = 'sum' then format('return (select coalesce(sum(a.n), 0)::%s from %s as a(n))', v_offered.merge, v_call)
        when v_offered.kind = 'all' then 'return query ' || format(v_offered.merge, v_call)
        when v_offered.is_void then 'perform ' || v_call
        when v_offered.is_set then format('return query select a.* from %s as a', v_call)
        else 'return ' || v_call
      end));
    execute format('alter function farebox.%s(%s) owner to farebox_owner', v_offered.name, v_offered.parameters);
  end loop;
end
$$;

do $$
declare
  v_stub record;
begin
  for v_stub in
    select p.oid::regprocedure as signature from pg_proc as p join pg_language as l on l.oid = p.prolang
    where p.pronamespace = 'farebox'::regnamespace and l.lanname = 'plproxy'
  loop
    execute format('alter function %s owner to farebox_owner', v_stub.signature);
    execute format('revoke execute on function %s from public', v_stub.signature);
  end loop;
end
$$;
