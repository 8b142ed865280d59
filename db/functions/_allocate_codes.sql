-- Purpose: who gets the uses that are left of codes that run out inside this batch: the lowest ordinals, as if the elements came one
--   after the other.
-- Parameters: p_requests in order.  Returns: the requests, those left without a use refused as code_exhausted; how many payments get
--   a ticket if none is lost to another caller: a lost one would free a use for a refused one.
set role farebox_owner;

create function farebox._allocate_codes(p_requests farebox._ticket_request[], out requests farebox._ticket_request[], out winners int)
language plpgsql volatile security invoker
as $$
declare
  v_payment int[];  -- of each candidate in order: the number of its payment, of its code (null without one), its ordinal
  v_code int[];
  v_ordinal int[];
  v_left int[];     -- of each code by its number: the uses left
  v_has_ticket boolean[];
begin
  requests := p_requests;
  winners := 0;

  select
    array_agg(c.payment_no order by c.ordinal),
    array_agg(c.code_no order by c.ordinal),
    array_agg(c.ordinal order by c.ordinal),
    array_fill(false, array[max(c.payment_no)])
  into v_payment, v_code, v_ordinal, v_has_ticket
  from (
    select
      r.ordinal,
      dense_rank() over (order by r.transaction_id)::int as payment_no,
      case when r.payment_code_id is not null then dense_rank() over (order by r.payment_code_id)::int end as code_no
    from unnest(p_requests) as r
    where r.reason is null
  ) as c;

  select array_agg(k.total_tickets - k.used_tickets order by k.id)
  into v_left
  from (select distinct r.payment_code_id from unnest(p_requests) as r where r.reason is null) as c
  cross join lateral (select k.* from farebox.payment_codes as k where k.id = c.payment_code_id offset 0) as k;

  -- A loop, because each decision hangs on the ones before it: a payment refused for its spent code leaves its place to
  -- the same payment further down, which may take the last use of another code. It touches no table.
  for i in 1 .. cardinality(v_payment) loop
    if v_has_ticket[v_payment[i]] then
      continue;  -- a repetition: compared with its ticket later
    elsif v_code[i] is null then
      v_has_ticket[v_payment[i]] := true;
      winners := winners + 1;
    elsif v_left[v_code[i]] > 0 then
      v_left[v_code[i]] := v_left[v_code[i]] - 1;
      v_has_ticket[v_payment[i]] := true;
      winners := winners + 1;
    else
      requests[v_ordinal[i]].reason := 'code_exhausted';
    end if;
  end loop;
end
$$;

comment on function farebox._allocate_codes(farebox._ticket_request[]) is
  'Internal: gives the uses left of each code to the lowest ordinals';

reset role;
