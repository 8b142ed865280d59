-- Purpose: payments become tickets, exactly once each, as if the elements were applied one after the other.
-- Parameters: p_batch, an array of at most 10,000 requests.  Returns: one outcome for each, in order.
-- Raises: TK001, TK002; 40001 for callers in REPEATABLE READ or SERIALIZABLE that another caller has overtaken.
-- Locks and writes, in the one order of db/README.md: tickets (by payment), payment_codes (by id), transactions, unapplied_payments (by payment).
set role farebox_owner;

create function farebox.create_tickets(p_batch json)
returns setof farebox.ticket_outcome
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
-- The plans must not hang on statistics: the look-ups are shaped so that they go by index, and nothing is planned twice.
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
declare
  v_batch json := p_batch;
  v_now timestamptz := farebox._now();
  v_read record;
  v_requests farebox._ticket_request[];
  v_length int;
  v_codes record;
  v_uses record;
  v_winners int;
  v_is_again boolean := false;
  v_created int;
  v_has_unapplied boolean;
  v_is_new boolean;
  v_missing uuid[];  -- tickets without a record; null until records are written
  v_outcomes farebox.ticket_outcome[];
begin
  -- Before anything is read: whoever deletes a route or a code waits for us or has finished (see _refuse_delete_when_sold).
  lock table farebox.tickets in row exclusive mode;

  begin
    -- Usually the elements are counted once they are read: counting them first is one more pass over the whole text.
    if v_batch is null or pg_column_size(v_batch) > 1000000 then
      perform farebox._batch_length(v_batch);
    end if;
    if farebox._looks_replayed(v_batch) then
      v_outcomes := farebox._answer_replay(v_batch);
    end if;
    if v_outcomes is null then
      v_read := farebox._read_requests(v_batch, false);
    end if;
  exception
    when transaction_rollback then
      raise;
    when statement_too_complex then
      v_batch := farebox._shallow_json(v_batch);
      perform farebox._batch_length(v_batch);
      v_read := farebox._read_requests(farebox._clean_batch(v_batch), true);
    when others then  -- no array, or a dirty one, or the records of a replay cannot be read now: the longer way can do without
      perform farebox._batch_length(v_batch);
      v_read := farebox._read_requests(farebox._clean_batch(v_batch), true);
  end;
  if v_outcomes is not null then
    if cardinality(v_outcomes) > 10000 then
      perform farebox._batch_length(v_batch);
    end if;
    return query select o.* from unnest(v_outcomes) as o;
    return;
  end if;
  v_requests := farebox._own_requests(v_read.requests);
  v_length := cardinality(v_requests);
  if v_length > 10000 then
    perform farebox._batch_length(v_batch);
  end if;

  if current_setting('transaction_isolation') not like 'read %' then
    -- The snapshot may be older than our lock on the table: a route deleted in between must not get a ticket.
    perform from farebox.routes as r
    where r.id = any (array(select q.route_id from unnest(v_requests) as q where q.reason is null))
    order by r.id
    for key share;
  end if;

  -- See _insert_tickets. Not for a few: a statement more would cost what it saves, and whoever is overtaken leaves a dead row for
  -- each ticket. Not for very many: by the time the last is looked up, the processor has forgotten where the first belongs.
  v_is_new := v_length between 10 and 300
    and not exists (select from farebox.tickets as t where t.monime_transaction_id = any (v_read.transaction_ids));

  if not v_read.has_code then
    v_created := farebox._insert_tickets(v_requests, v_now, v_is_new);
  else
    -- Codes are charged when the tickets are written: a code that everybody pays on is then locked for little longer than a commit
    -- takes. So they are judged and given out as they stand before, and all is taken back and done anew where that was too much or,
    -- because of a ticket lost to another caller, too little. Each time somebody has committed in between: it comes to an end.
    loop
      v_codes := farebox._look_up_codes(v_requests, v_is_new, v_is_again, v_now);
      if v_codes.runs_out then
        select a.requests, a.winners into v_codes.requests, v_winners from farebox._allocate_codes(v_codes.requests) as a;
      end if;
      begin
        v_created := farebox._insert_tickets(v_codes.requests, v_now, v_is_new);
        if v_created = v_length then
          v_missing := (farebox._record_transactions(v_codes.requests, v_now)).missing;
          exit when farebox._charge_codes(v_codes.codes, v_codes.uses, null);
        elsif not v_codes.runs_out or v_created = v_winners then
          v_uses := farebox._count_uses(v_codes.requests);
          exit when farebox._charge_codes(v_uses.codes, v_uses.uses, v_uses.is_spent);
        end if;
        raise exception using errcode = 'TK000', message = 'another caller was faster';
      exception when sqlstate 'TK000' then
        v_missing := null;
        v_is_again := true;
        v_is_new := false;  -- so that payments lost to another caller are seen
        v_now := farebox._now();
      end;
    end loop;
    v_requests := v_codes.requests;
  end if;

  -- Looked up only now: a rejection of one of these payments may have been kept while we waited for a lock.
  v_has_unapplied := exists (
    select from (
      -- Not asked for in here: the index of all open payments would seem to serve as well.
      select u.resolved_at from farebox.unapplied_payments as u
      where u.monime_transaction_id = any (v_read.transaction_ids) offset 0) as u
    where u.resolved_at is null);

  -- The short way of what nearly all batches are: every element became a ticket.
  if v_created = v_length and not v_has_unapplied then
    v_missing := coalesce(v_missing, (farebox._record_transactions(v_requests, v_now)).missing);
    return query
      select r.ordinal, r.given_id, 'created', null::text, r.ticket_id, null::uuid, null::text[],
        r.ticket_id <> all (v_missing)
      from unnest(v_requests) as r;
    return;
  end if;

  v_outcomes := farebox._settle_records(farebox._judge_requests(v_requests, v_created), v_now);
  if v_has_unapplied or exists (select from unnest(v_outcomes) as o where o.outcome = 'rejected') then
    begin
      perform farebox._keep_unapplied_payments(v_batch, v_requests, v_outcomes, v_now);
    exception when statement_too_complex then  -- a request nested so deeply that it could only just be read
      perform farebox._keep_unapplied_payments(farebox._shallow_json(v_batch), v_requests, v_outcomes, v_now);
    end;
  end if;
  return query select o.* from unnest(v_outcomes) as o;
end
$$;

comment on function farebox.create_tickets(json) is
  'Payments become tickets, exactly once each; one outcome for each element of the batch, in order';

reset role;
