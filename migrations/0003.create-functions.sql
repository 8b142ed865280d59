-- 0003.create-functions. Made from db/ by tests/tools/freeze_migrations.py; see README.md here.
-- depends: 0002.create-tables

-- [copy of db/functions/_trimmed.sql]
-- Purpose: what "trimmed" means everywhere: white space off both ends (Unicode's, as far as it fits one character).
-- Parameters: p_text, may be null.  Returns: the text without it; null for null.
set role farebox_owner;

create function farebox._trimmed(p_text text)
returns text
language sql immutable security invoker parallel safe
as $$
  select case
    when p_text collate "C" ~ '^[!-~]+$' then p_text  -- the common case, three times as fast
    else btrim(p_text, U&' \0009\000A\000B\000C\000D\001C\001D\001E\001F\0085\00A0\1680\2000\2001\2002\2003\2004\2005\2006\2007\2008\2009\200A\2028\2029\202F\205F\3000')
  end
$$;

comment on function farebox._trimmed(text) is 'A text without the white space at its ends';

reset role;

-- [copy of db/functions/_json_object.sql]
-- Purpose: an element of a catalog batch in a form whose fields can be read safely.
-- Parameters: p_element.  Returns: the object, or null when it is no object or holds what no text or number can (a NUL escape, 1e99999).
set role farebox_owner;

create function farebox._json_object(p_element json)
returns jsonb
language plpgsql immutable strict security invoker parallel safe
as $$
begin
  if json_typeof(p_element) = 'object' then
    return p_element::jsonb;
  end if;
  return null;
exception when data_exception then
  return null;
end
$$;

comment on function farebox._json_object(json) is 'Internal: a JSON element as an object that can be read safely, or null';

reset role;

-- [copy of db/functions/_jsonb_text.sql]
-- Purpose: a text field of a catalog element, trimmed.
-- Parameters: p_object, p_key.  Returns: the text; null when it is absent or no JSON string.
set role farebox_owner;

create function farebox._jsonb_text(p_object jsonb, p_key text)
returns text
language sql immutable security invoker parallel safe
as $$ select case when jsonb_typeof(p_object -> p_key) = 'string' then farebox._trimmed(p_object ->> p_key) end $$;

comment on function farebox._jsonb_text(jsonb, text) is 'Internal: a text field, trimmed; null when it is no JSON string';

reset role;

-- [copy of db/functions/_number.sql]
-- Purpose: a number by its value, however it is written, the same on every server version (16 and later would take 0x10 and 1_000 too).
-- Parameters: p_text; the range p_low..p_high; p_scale, the decimals allowed.
-- Returns: the number, or null when the text is no number, out of the range, or has more decimals that are not 0.
set role farebox_owner;

create function farebox._number(p_text text, p_low numeric, p_high numeric, p_scale int)
returns numeric
language plpgsql immutable strict security invoker parallel safe
as $$
declare
  v_text text := farebox._trimmed(p_text);
  v_number numeric;
begin
  -- The exponent is kept short enough for numeric never to overflow; a longer one is out of any range used here.
  if length(v_text) > 1000
    or v_text collate "C" !~ '^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?0*[0-9]{1,3})?$'
  then
    return null;
  end if;
  v_number := v_text::numeric;
  if v_number between p_low and p_high and v_number = round(v_number, p_scale) then
    return v_number;
  end if;
  return null;
end
$$;

comment on function farebox._number(text, numeric, numeric, int) is
  'A number by its value, null when it is none, out of range or too fine';

reset role;

-- [copy of db/functions/_phone.sql]
-- Purpose: the phone rule: spaces, dots, dashes and parentheses leave the number; then E.164.
-- Parameters: p_text, may be null.  Returns: + and 7 to 15 digits without a leading 0, or null when it is no such number.
set role farebox_owner;

create function farebox._phone(p_text text)
returns text
language sql immutable security invoker parallel safe
as $$
  select case
    when p_text collate "C" ~ '^\+[1-9][0-9]+$' and length(p_text) between 8 and 16 then p_text
    when translate(farebox._trimmed(p_text), ' .-()', '') collate "C" ~ '^\+[1-9][0-9]{6,14}$'
      then translate(farebox._trimmed(p_text), ' .-()', '')
  end
$$;

comment on function farebox._phone(text) is 'A phone number normalised to E.164, null when it is none';

reset role;

-- [copy of db/functions/_amount.sql]
-- Purpose: the amount rule: a JSON number or numeric string goes by its value (5000, 5000.0 and 5e3 are one amount).
-- Parameters: p_text, the number as text, may be null.  Returns: minor units, 1 to 10^12, or null when it is no such integer.
set role farebox_owner;

create function farebox._amount(p_text text)
returns bigint
language sql immutable security invoker parallel safe
as $$
  select case
    when p_text collate "C" ~ '^[1-9][0-9]*$' and length(p_text) <= 12 then p_text::bigint
    else (farebox._number(p_text, 1, 1000000000000, 0))::bigint
  end
$$;

comment on function farebox._amount(text) is 'An amount in minor units, null when it is no integer from 1 to 10^12';

reset role;

-- [copy of db/functions/_uuid.sql]
-- Purpose: a UUID in any form PostgreSQL reads, after trimming.
-- Parameters: p_text, may be null.  Returns: the UUID, or null when the text is none.
set role farebox_owner;

create function farebox._uuid(p_text text)
returns uuid
language sql immutable security invoker parallel safe
as $$
  select case
    when farebox._trimmed(p_text) collate "C"
      ~* '^([0-9a-f]{4}(-?[0-9a-f]{4}){7}|\{[0-9a-f]{4}(-?[0-9a-f]{4}){7}\})$'
    then farebox._trimmed(p_text)::uuid
  end
$$;

comment on function farebox._uuid(text) is 'A UUID, null when the text is none';

reset role;

-- [copy of db/functions/_timestamp.sql]
-- Purpose: a time as clients write it: ISO 8601 with an offset or Z; nothing that would hang on the session's settings.
-- Parameters: p_text, may be null.  Returns: the time, or null when it is none.
set role farebox_owner;

create function farebox._timestamp(p_text text)
returns timestamptz
language plpgsql stable strict security invoker parallel safe
as $$
begin
  if p_text collate "C" ~* '^[0-9]{4}-[0-9]{2}-[0-9]{2}[t ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,9})?)?( ?(z|[-+][0-9]{2}(:?[0-9]{2})?))$' then
    return p_text::timestamptz;
  end if;
  return null;
exception when data_exception then
  return null;  -- the shape is right, the date is not: the 31st of February
end
$$;

comment on function farebox._timestamp(text) is 'A time in ISO 8601 with an offset, null when the text is none';

reset role;

-- [copy of db/functions/_commission.sql]
-- Purpose: the commission rule, in one place.
-- Parameters: p_amount in minor units, p_rate 0 to 1.  Returns: amount x rate, rounded half away from zero.
set role farebox_owner;

create function farebox._commission(p_amount bigint, p_rate numeric)
returns bigint
language sql immutable security invoker parallel safe
as $$ select round(p_amount * p_rate)::bigint $$;

comment on function farebox._commission(bigint, numeric) is 'The platform''s share of an amount, rounded half away from zero';

reset role;

-- [copy of db/functions/_code_refusal.sql]
-- Purpose: why a code cannot be charged now, in the contract's order.
-- Parameters: the code's state and the time.  Returns: code_cancelled, code_expired, code_exhausted, or null when it can.
set role farebox_owner;

create function farebox._code_refusal(p_status text, p_used int, p_total int, p_expires_at timestamptz, p_now timestamptz)
returns text
language sql immutable security invoker parallel safe
as $$
  select case
    when p_status = 'cancelled' then 'code_cancelled'
    when p_expires_at <= p_now then 'code_expired'
    when p_status = 'expired' and p_used < p_total then 'code_expired'
    when p_used >= p_total then 'code_exhausted'
  end
$$;

comment on function farebox._code_refusal(text, int, int, timestamptz, timestamptz) is
  'Why a payment code cannot be charged, null when it can';

reset role;

-- [copy of db/functions/_batch_length.sql]
-- Purpose: what every batch function asks of its argument.
-- Parameters: p_batch.  Returns: its length.  Raises: TK001 not an array, TK002 longer than 10,000.
set role farebox_owner;

create function farebox._batch_length(p_batch json)
returns int
language plpgsql immutable security invoker parallel safe
as $$
declare
  v_length int;
begin
  if p_batch is null or json_typeof(p_batch) <> 'array' then
    raise exception using errcode = 'TK001',
      message = 'the batch is not a JSON array',
      detail = format('it is %s', coalesce('of JSON type ' || json_typeof(p_batch), 'null')),
      hint = 'pass an array of objects: [{"company_id": …}, …]';
  end if;
  v_length := json_array_length(p_batch);
  if v_length > 10000 then
    raise exception using errcode = 'TK002',
      message = 'the batch is longer than 10,000',
      detail = format('it has %s elements', v_length),
      hint = 'send it in batches of 10,000 or fewer';
  end if;
  return v_length;
end
$$;

comment on function farebox._batch_length(json) is 'Internal: the length of a batch; raises TK001 when it is no array, TK002 when it is longer than 10,000';

reset role;

-- [copy of db/functions/_check_limit.sql]
-- Purpose: what every function with a limit asks of it.
-- Parameters: p_limit, the most it may be.  Returns: nothing.  Raises: TK003.
set role farebox_owner;

create function farebox._check_limit(p_limit int, p_most int)
returns void
language plpgsql immutable security invoker parallel safe
as $$
begin
  if p_limit is null or p_limit not between 1 and p_most then
    raise exception using errcode = 'TK003',
      message = format('the limit is %s', coalesce(p_limit::text, 'null')),
      hint = format('pass a limit from 1 to %s', p_most);
  end if;
end
$$;

comment on function farebox._check_limit(int, int) is 'Raises TK003 when a limit is null or out of range';

reset role;

-- [copy of db/functions/_clean_batch.sql]
-- Purpose: a batch that _read_requests can read, from one that it cannot: non-objects, malformed UUIDs, escapes no text can hold.
-- Parameters: p_batch, an array.  Returns: the array with an object for each element, holding the known keys; what is malformed is
--   null there, or stays a value that is refused in its place. No element is judged here.
set role farebox_owner;

create function farebox._clean_batch(p_batch json)
returns json
language plpgsql stable security invoker parallel safe
as $$
declare
  v_clean json[] := '{}'::json[];
  v_element json;
  v_text text;
  -- What stands for an escape that no text can hold (NUL, half a surrogate pair): longer than any text that is
  -- accepted, so a transaction id, phone, OTP or code with it is refused, and an unknown key stays unknown.
  c_unreadable constant text := repeat('\u0001', 65);
begin
  -- A loop, because each element needs an exception handler of its own: one poisoned element must not cost its neighbours.
  for v_element in select e.value from json_array_elements(p_batch) as e loop
    begin
      if position('\u' in v_element::text) > 0 then
        v_text := replace(v_element::text, '\\', '\u005c');  -- from here on each backslash begins an escape
        v_text := regexp_replace(v_text, '\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})', '\\P\1\2', 'g');
        v_text := regexp_replace(v_text, '\\u(0000|[dD][89a-fA-F][0-9a-fA-F]{2})', replace(c_unreadable, '\', '\\'), 'g');
        v_text := regexp_replace(v_text, '\\P([0-9a-fA-F]{4})([0-9a-fA-F]{4})', '\\u\1\\u\2', 'g');
        v_element := v_text::json;
      end if;
      v_clean := v_clean || case when json_typeof(v_element) = 'object' then (
        select json_build_object(
          'company_id', farebox._uuid(r.company_id),
          'route_id', farebox._uuid(r.route_id),
          'passenger_phone', r.passenger_phone,
          'monime_transaction_id', case when position(repeat(E'\u0001', 65) in r.monime_transaction_id #>> '{}') = 0
            then r.monime_transaction_id end,
          'monime_otp', r.monime_otp,
          'amount', r.amount,
          'commission_rate', r.commission_rate,
          'payment_code', r.payment_code)
        from json_to_record(v_element) as r(company_id text, route_id text, passenger_phone json,
          monime_transaction_id json, monime_otp json, amount json, commission_rate json, payment_code json)
      ) else '{}'::json end;
    exception when data_exception then
      v_clean := v_clean || '{}'::json;  -- unreadable as a whole: it will be rejected for its transaction id
    end;
  end loop;
  return array_to_json(v_clean);
end
$$;

comment on function farebox._clean_batch(json) is
  'A readable batch from one with non-objects, malformed UUIDs or escapes that no text can hold';

reset role;

-- [copy of db/functions/_read_requests.sql]
-- Purpose: the elements of a batch, normalised, each with the first reason that speaks against a ticket, by format and catalog.
-- Parameters: p_batch, an array; p_now.
-- Returns: the requests in order; whether any names a code; whether an open unapplied payment is among them. Reason `known`: it carries a code and has its ticket already.
-- Raises: data exceptions for what json_to_recordset cannot read; the caller cleans the batch then.
set role farebox_owner;

create function farebox._read_requests(p_batch json, p_now timestamptz,
  out requests farebox._ticket_request[], out has_code boolean, out has_unapplied boolean)
language plpgsql volatile security invoker
as $$
declare
  -- One time-ordered id a batch, its last four digits replaced by the ordinal: drawing each by itself would cost as much as
  -- reading the element. What remains random tells batches of the same instant apart.
  v_id_prefix text := left(farebox._uuid_v7()::text, 32);
begin
  -- `materialized` and `offset 0` keep the planner from dissolving a step into the next one, where each use would compute
  -- its columns again. A lateral subquery that cannot be dissolved goes by its index, whatever the statistics say.
  with field as materialized (
    select
      x.ordinal::int as ordinal,
      x.monime_transaction_id #>> '{}' as given_id,
      json_typeof(x.monime_transaction_id) = 'string' as is_text,
      x.company_id,
      x.route_id,
      x.passenger_phone,
      case when json_typeof(x.monime_otp) = 'string' then x.monime_otp #>> '{}' end as monime_otp,
      -- A code of another JSON type is not absent: a blank stands for it, a code that cannot exist.
      case json_typeof(x.payment_code) when 'string' then nullif(farebox._trimmed(x.payment_code #>> '{}'), '') else
        case when json_typeof(x.payment_code) <> 'null' then ' ' end end as payment_code,
      x.amount,
      x.commission_rate
    from rows from (json_to_recordset(p_batch) as (
      company_id uuid, route_id uuid, passenger_phone text, monime_transaction_id json, monime_otp json,
      amount text, commission_rate text, payment_code json)) with ordinality
      as x(company_id, route_id, passenger_phone, monime_transaction_id, monime_otp, amount, commission_rate, payment_code, ordinal)
  ),
  element as (
    select
      f.ordinal,
      f.given_id,
      case when f.is_text then farebox._trimmed(f.given_id) end as transaction_id,
      f.company_id,
      f.route_id,
      farebox._phone(f.passenger_phone) as passenger_phone,
      farebox._trimmed(f.monime_otp) as monime_otp,
      f.payment_code,
      farebox._amount(f.amount) as amount,
      f.commission_rate is not null as rate_given,
      farebox._number(f.commission_rate, 0, 1, 4) as rate
    from field as f
    offset 0
  ),
  -- A batch names few companies and routes, many times each: they are looked up once.
  place as (
    select d.company_id, d.route_id, c.id is not null as has_company, c.status as company_status, c.commission_rate,
      r.company_id is not null as has_route, r.status as route_status
    from (select distinct f.company_id, f.route_id from field as f) as d
    left join lateral (
      select c.id, c.status, c.commission_rate from farebox.companies as c where c.id = d.company_id offset 0) as c on true
    left join lateral (
      select r.company_id, r.status from farebox.routes as r where r.id = d.route_id offset 0) as r on r.company_id = d.company_id
    offset 0
  )
  select
    coalesce(array_agg(row(
      e.ordinal, e.given_id,
      case when length(e.transaction_id) between 1 and 64 then e.transaction_id end,
      e.company_id, e.route_id, e.passenger_phone, e.monime_otp, e.payment_code, k.id, e.amount,
      coalesce(e.rate, p.commission_rate),
      case
        when coalesce(length(e.transaction_id), 0) not between 1 and 64 then 'transaction_id_invalid'
        when e.company_id is null then 'company_id_invalid'
        when e.route_id is null then 'route_id_invalid'
        when e.passenger_phone is null then 'phone_invalid'
        when (e.monime_otp collate "C" ~ '^[A-Za-z0-9]+$' and length(e.monime_otp) between 4 and 12) is not true then 'otp_invalid'
        when e.amount is null then 'amount_invalid'
        when e.rate_given and e.rate is null then 'commission_rate_invalid'
        when not p.has_company then 'company_not_found'
        when p.company_status <> 'active' then 'company_suspended'
        when not p.has_route then 'route_not_found'
        when p.route_status <> 'active' then 'route_inactive'
        when e.payment_code is null then null
        when k.id is null then 'code_not_found'
        when k.route_id <> e.route_id then 'code_route_mismatch'
        when t.id is not null then 'known'
        else farebox._code_refusal(k.status, k.used_tickets, k.total_tickets, k.expires_at, p_now)
      end,
      (v_id_prefix || lpad(to_hex(e.ordinal), 4, '0'))::uuid)::farebox._ticket_request order by e.ordinal), '{}'),
    coalesce(bool_or(k.id is not null), false),
    coalesce(bool_or(u.is_open), false)
  into requests, has_code, has_unapplied
  from element as e
  left join place as p on p.company_id = e.company_id and p.route_id = e.route_id
  left join lateral (
    select k.id, k.company_id, k.route_id, k.status, k.used_tickets, k.total_tickets, k.expires_at
    from farebox.payment_codes as k where k.code = e.payment_code offset 0) as k on k.company_id = e.company_id
  -- Only what would charge a code is looked up beforehand: a retry must not queue for the lock of its code.
  left join lateral (
    select t.id from farebox.tickets as t
    where t.monime_transaction_id = case when k.id is not null then e.transaction_id end offset 0) as t on true
  left join lateral (
    select u.resolved_at is null as is_open from farebox.unapplied_payments as u
    where u.monime_transaction_id = e.transaction_id offset 0) as u on true;
end
$$;

comment on function farebox._read_requests(json, timestamptz) is
  'Internal: the elements of a batch, normalised, each with the first reason against a ticket';

reset role;

-- [copy of db/functions/_refuse_codes.sql]
-- Purpose: judges the codes again once they are locked: between reading and locking they may have been spent, cancelled or have expired.
-- Parameters: p_requests, their codes locked; p_now, the time after the locks were got.  Returns: the requests with the reasons of now.
set role farebox_owner;

create function farebox._refuse_codes(p_requests farebox._ticket_request[], p_now timestamptz)
returns farebox._ticket_request[]
language plpgsql volatile security invoker
as $$
declare
  v_requests farebox._ticket_request[] := p_requests;
  v_refused record;
begin
  -- A loop over the few that changed in that moment.
  for v_refused in
    select s.ordinal, s.reason
    from (
      select r.ordinal, farebox._code_refusal(k.status, k.used_tickets, k.total_tickets, k.expires_at, p_now) as reason
      from unnest(p_requests) as r
      cross join lateral (select k.* from farebox.payment_codes as k where k.id = r.payment_code_id offset 0) as k
      where r.reason is null
    ) as s
    where s.reason is not null
  loop
    v_requests[v_refused.ordinal].reason := v_refused.reason;
  end loop;
  return v_requests;
end
$$;

comment on function farebox._refuse_codes(farebox._ticket_request[], timestamptz) is
  'Internal: requests whose code cannot be charged any more, now that it is locked, get their reason';

reset role;

-- [copy of db/functions/_allocate_codes.sql]
-- Purpose: who gets the uses that are left of each code: the lowest ordinals, as if the elements came one after the other.
-- Parameters: p_requests in order, their codes locked.  Returns: the requests, those left without a use refused as code_exhausted;
--   whether a code runs out inside this batch, so that a ticket lost to another caller would free a use for a refused one; then
--   also how many payments get a ticket if none is lost.
set role farebox_owner;

create function farebox._allocate_codes(
  p_requests farebox._ticket_request[], out requests farebox._ticket_request[], out runs_out boolean, out winners int)
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

  -- Each payment's first candidate wants a use. Where there is one for each of them, nothing hangs on the order.
  select coalesce(bool_or(d.demand > k.total_tickets - k.used_tickets), false)
  into runs_out
  from (
    select f.payment_code_id, count(*) as demand
    from (
      select distinct on (r.transaction_id) r.payment_code_id
      from unnest(p_requests) as r
      where r.reason is null
      order by r.transaction_id, r.ordinal
    ) as f
    where f.payment_code_id is not null
    group by f.payment_code_id
  ) as d
  cross join lateral (select k.* from farebox.payment_codes as k where k.id = d.payment_code_id offset 0) as k;

  if not runs_out then
    return;
  end if;

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

-- [copy of db/functions/_recognise_tickets.sql]
-- Purpose: marks as `known` the candidates that have a ticket by now, after another caller was faster.
-- Parameters: p_requests.  Returns: the requests.  Raises: 40001 when none has one: the faster caller's ticket has gone again.
set role farebox_owner;

create function farebox._recognise_tickets(p_requests farebox._ticket_request[])
returns farebox._ticket_request[]
language plpgsql volatile security invoker
as $$
declare
  v_requests farebox._ticket_request[] := p_requests;
  v_ordinal int;
begin
  -- A loop over the few that were lost.
  for v_ordinal in
    select r.ordinal
    from unnest(p_requests) as r
    cross join lateral (select from farebox.tickets as t where t.monime_transaction_id = r.transaction_id offset 0) as t
    where r.reason is null
  loop
    v_requests[v_ordinal].reason := 'known';
  end loop;
  if not found then
    raise exception using errcode = 'serialization_failure',
      message = 'a ticket disappeared while its payment was being looked up',
      hint = 'retry the call';
  end if;
  return v_requests;
end
$$;

comment on function farebox._recognise_tickets(farebox._ticket_request[]) is
  'Internal: marks the candidates that have a ticket by now';

reset role;

-- [copy of db/functions/_insert_tickets.sql]
-- Purpose: writes the tickets and charges their codes, in one statement.
-- Parameters: p_requests; those without a reason are candidates, the first of each payment is written. p_now, their time.
-- Returns: how many were written; the others of the candidates' payments were lost to callers who have committed.
-- Locks and writes: tickets in the order of the payment, so that callers wait in one direction only; payment_codes, locked before.
set role farebox_owner;

create function farebox._insert_tickets(
  p_requests farebox._ticket_request[], p_now timestamptz, out created int)
language plpgsql volatile security invoker
as $$
begin
  with created as (
    insert into farebox.tickets (id, company_id, route_id, payment_code_id, amount, created_at, commission_rate,
      monime_transaction_id, passenger_phone, monime_otp)
    select distinct on (r.transaction_id)
      r.ticket_id, r.company_id, r.route_id, r.payment_code_id, r.amount, p_now, r.commission_rate,
      r.transaction_id, r.passenger_phone, r.monime_otp
    from unnest(p_requests) as r
    where r.reason is null
    order by r.transaction_id, r.ordinal
    on conflict (monime_transaction_id) do nothing
    returning payment_code_id
  ),
  charge as (
    select c.payment_code_id, count(*)::int as uses
    from created as c
    where c.payment_code_id is not null
    group by c.payment_code_id
  ),
  charged as (
    update farebox.payment_codes as k
    set
      used_tickets = k.used_tickets + c.uses,
      status = case when k.used_tickets + c.uses >= k.total_tickets then 'expired' else k.status end
    from charge as c
    where k.id = c.payment_code_id
  )
  select count(*) into created from created;
end
$$;

comment on function farebox._insert_tickets(farebox._ticket_request[], timestamptz) is
  'Internal: writes tickets and charges their codes';

reset role;

-- [copy of db/functions/_judge_requests.sql]
-- Purpose: the outcome of each element, once the tickets are written: created, or what the payment's ticket says.
-- Parameters: p_requests, in order; p_created, how many tickets were written.
-- Returns: the outcomes in order, with transaction_recorded as far as it is known: not yet for the tickets just written.  Raises: 40001 when a ticket that was there has gone.
set role farebox_owner;

create function farebox._judge_requests(p_requests farebox._ticket_request[], p_created int)
returns farebox.ticket_outcome[]
language plpgsql volatile security invoker
as $$
declare
  v_outcomes farebox.ticket_outcome[];
  v_vanished boolean;
  -- Every candidate became a ticket, so none of them needs a look-up.
  v_all_created boolean := p_created = (select count(*) from unnest(p_requests) as r where r.reason is null);
begin
  with compared as (
    select
      r.*,
      t.id as found_id,
      t.company_id = r.company_id as is_own,
      array_remove(array[
        case when t.route_id is distinct from r.route_id then 'route_id' end,
        case when t.passenger_phone is distinct from r.passenger_phone then 'passenger_phone' end,
        case when k.code is distinct from r.payment_code then 'payment_code' end,
        case when t.monime_otp is distinct from r.monime_otp then 'monime_otp' end,
        case when t.amount is distinct from r.amount then 'amount' end], null) as differing,
      x.ticket_id is not null as is_recorded,
      -- Where this very batch created the ticket: from which element on it is there.
      min(r.ordinal) filter (where r.reason is null and (v_all_created or t.id = r.ticket_id))
        over (partition by r.transaction_id) as created_by
    from unnest(p_requests) as r
    left join lateral (
      select t.* from farebox.tickets as t
      where t.monime_transaction_id =
        case when r.company_id is not null and not (v_all_created and r.reason is null) then r.transaction_id end
      offset 0) as t on true
    left join lateral (select k.code from farebox.payment_codes as k where k.id = t.payment_code_id offset 0) as k on true
    left join lateral (select x.ticket_id from farebox.transactions as x where x.ticket_id = t.id offset 0) as x on true
  ),
  judged as (
    select
      c.*,
      case
        when c.reason is null and (v_all_created or c.found_id = c.ticket_id) then 'created'
        when c.found_id is null or c.ordinal < c.created_by or not c.is_own then 'rejected'
        when c.differing = '{}' then 'duplicate'
        else 'conflict'
      end as outcome,
      c.found_id is null and (c.reason = 'known' or c.reason is null and not v_all_created) as has_vanished
    from compared as c
  )
  select
    array_agg(row(
      j.ordinal,
      j.given_id,
      j.outcome,
      case when j.outcome = 'rejected' then case
        when j.found_id is null or j.ordinal < j.created_by then j.reason
        else 'transaction_id_unavailable' end end,
      case j.outcome when 'created' then j.ticket_id when 'duplicate' then j.found_id end,
      case j.outcome when 'conflict' then j.found_id end,
      case j.outcome when 'conflict' then j.differing end,
      j.outcome = 'duplicate' and j.is_recorded)::farebox.ticket_outcome order by j.ordinal),
    coalesce(bool_or(j.has_vanished), false)
  into v_outcomes, v_vanished
  from judged as j;

  if v_vanished then
    raise exception using errcode = 'serialization_failure',
      message = 'a ticket disappeared while its payment was being looked up',
      hint = 'retry the call';
  end if;
  return v_outcomes;
end
$$;

comment on function farebox._judge_requests(farebox._ticket_request[], int) is
  'Internal: the outcome of each element, from the ticket its payment has';

reset role;

-- [copy of db/functions/_record_of.sql]
-- Purpose: what _record_transactions needs to know of a ticket that is in the table already.
-- Parameters: a ticket.  Returns: a request without a reason.
set role farebox_owner;

create function farebox._record_of(p_ticket farebox.tickets)
returns farebox._ticket_request
language sql immutable security invoker parallel safe
as $$
  select row(null, null, null, p_ticket.company_id, null, null, null, null, null, p_ticket.amount, p_ticket.commission_rate,
    null, p_ticket.id)::farebox._ticket_request
$$;

comment on function farebox._record_of(farebox.tickets) is 'Internal: a stored ticket in the form that _record_transactions takes';

reset role;

-- [copy of db/functions/_record_transactions.sql]
-- Purpose: writes the transaction records of tickets. A record that cannot be written costs neither its ticket nor the other records.
-- Parameters: p_tickets, of which those without a reason are tickets without a record; p_now.  Returns: how many this call wrote; whether all of them stand now.
-- Raises: only what the caller should retry as a whole (class 40).  Locks and writes: transactions.
set role farebox_owner;

create function farebox._record_transactions(p_tickets farebox._ticket_request[], p_now timestamptz, out written int, out all_stand boolean)
language plpgsql volatile security invoker
as $$
declare
  v_ticket farebox._ticket_request;
  v_count int;
begin
  begin
    insert into farebox.transactions (ticket_id, company_id, amount, commission, net_amount, created_at)
    select t.ticket_id, t.company_id, t.amount, c.commission, t.amount - c.commission, p_now
    from unnest(p_tickets) as t
    cross join lateral (select farebox._commission(t.amount, t.commission_rate) as commission) as c
    where t.reason is null;
    get diagnostics written = row_count;
    all_stand := true;
    return;
  exception when others then
    if sqlstate like '40%' then
      raise;
    end if;
  end;

  written := 0;
  all_stand := true;
  -- A loop, because each record needs an exception handler of its own. In the order of the keys: two repairs may meet.
  for v_ticket in select t.* from unnest(p_tickets) as t where t.reason is null order by t.ticket_id loop
    begin
      insert into farebox.transactions (ticket_id, company_id, amount, commission, net_amount, created_at)
      values (v_ticket.ticket_id, v_ticket.company_id, v_ticket.amount,
        farebox._commission(v_ticket.amount, v_ticket.commission_rate),
        v_ticket.amount - farebox._commission(v_ticket.amount, v_ticket.commission_rate), p_now)
      on conflict (ticket_id) do nothing;
      get diagnostics v_count = row_count;
      written := written + v_count;
    exception when others then
      if sqlstate like '40%' then
        raise;
      end if;
      all_stand := false;
      raise warning using message = format('the transaction record of ticket %s cannot be written: %s', v_ticket.ticket_id, sqlerrm),
        hint = 'the ticket stands; farebox.record_missing_transactions() writes the record once the cause is gone';
    end;
  end loop;
end
$$;

comment on function farebox._record_transactions(farebox._ticket_request[], timestamptz) is
  'Internal: writes the transaction records of tickets, each on its own when not all together';

reset role;

-- [copy of db/functions/_repair_records.sql]
-- Purpose: the transaction records of the tickets in a batch's outcomes that have none yet: new tickets, and old ones at a replay.
-- Parameters: p_outcomes, in order; p_now; p_write, false when writing them has just failed and only the truth is wanted.
-- Returns: the outcomes with transaction_recorded as it stands.  Locks and writes: transactions.
set role farebox_owner;

create function farebox._repair_records(p_outcomes farebox.ticket_outcome[], p_now timestamptz, p_write boolean)
returns farebox.ticket_outcome[]
language plpgsql volatile security invoker
as $$
declare
  v_missing farebox._ticket_request[];
  v_all boolean := false;
begin
  if p_write then
    select array_agg(farebox._record_of(t.*) order by t.id)
    into v_missing
    from (select distinct o.ticket_id from unnest(p_outcomes) as o where o.ticket_id is not null and not o.transaction_recorded) as o
    cross join lateral (select t.* from farebox.tickets as t where t.id = o.ticket_id offset 0) as t;
    select r.all_stand into v_all from farebox._record_transactions(v_missing, p_now) as r;
  end if;

  return (
    select array_agg(row(o.ordinal, o.monime_transaction_id, o.outcome, o.reason, o.ticket_id, o.existing_ticket_id, o.differing,
      o.ticket_id is not null and (v_all or o.transaction_recorded or x.ticket_id is not null))::farebox.ticket_outcome
      order by o.ordinal)
    from unnest(p_outcomes) as o
    left join lateral (
      select x.ticket_id from farebox.transactions as x where not v_all and x.ticket_id = o.ticket_id offset 0) as x on true
  );
end
$$;

comment on function farebox._repair_records(farebox.ticket_outcome[], timestamptz, boolean) is
  'Internal: writes the transaction records that are missing among the tickets of a batch';

reset role;

-- [copy of db/functions/_keep_unapplied_payments.sql]
-- Purpose: keeps each rejected payment, and resolves the kept ones whose payment has a ticket by now.
-- Parameters: p_batch as it came; p_requests and p_outcomes of its elements, in order; p_now.  Returns: nothing.
-- Locks and writes: unapplied_payments, all rows in the order of the payment and in one statement.
set role farebox_owner;

create function farebox._keep_unapplied_payments(
  p_batch json, p_requests farebox._ticket_request[], p_outcomes farebox.ticket_outcome[], p_now timestamptz)
returns void
language plpgsql volatile security invoker
as $$
begin
  with element as (
    select
      z.ordinal, z.transaction_id, z.company_id, z.request, z.outcome_reason as reason,
      z.outcome = 'rejected' and z.outcome_reason <> 'transaction_id_unavailable' as is_kept
    from rows from (unnest(p_requests), unnest(p_outcomes), json_array_elements(p_batch)) as z(
      ordinal, given_id, transaction_id, company_id, route_id, passenger_phone, monime_otp, payment_code, payment_code_id,
      amount, commission_rate, request_reason, new_ticket_id,
      outcome_ordinal, outcome_given_id, outcome, outcome_reason, ticket_id, existing_ticket_id, differing, transaction_recorded,
      request)
    where z.transaction_id is not null
  ),
  rejection as (
    select
      r.transaction_id,
      (array_agg(r.company_id order by r.ordinal desc))[1] as company_id,
      (array_agg(r.reason order by r.ordinal desc))[1] as reason,
      array_agg(r.request order by r.ordinal desc) filter (where r.is_last_of_its_kind) as requests,
      count(*)::int as attempts
    from (
      select e.*, row_number() over (partition by e.transaction_id, e.request::text order by e.ordinal desc) = 1 as is_last_of_its_kind
      from element as e
      where e.is_kept
    ) as r
    group by r.transaction_id
  ),
  payment as (
    select r.transaction_id, r.company_id, r.reason, r.requests, r.attempts
    from rejection as r
    union all
    -- Open rows whose payment was not rejected here: it has its ticket now. Without a reason nothing but that is written.
    select u.monime_transaction_id, u.company_id, null, array[u.request], 1
    from (select distinct e.transaction_id from element as e) as e
    cross join lateral (
      select u.* from farebox.unapplied_payments as u where u.monime_transaction_id = e.transaction_id offset 0) as u
    where u.resolved_at is null and not exists (select from element as k where k.is_kept and k.transaction_id = e.transaction_id)
  )
  insert into farebox.unapplied_payments as u (monime_transaction_id, company_id, request, reason, first_seen_at, last_seen_at,
    attempts, earlier_requests, resolved_at, ticket_id)
  select
    p.transaction_id, coalesce(t.company_id, p.company_id), p.requests[1], p.reason, p_now, p_now,
    p.attempts, p.requests[2:10], case when t.id is not null then p_now end, t.id
  from payment as p
  left join lateral (
    select t.id, t.company_id from farebox.tickets as t where t.monime_transaction_id = p.transaction_id offset 0) as t on true
  where p.reason is not null or t.id is not null
  order by p.transaction_id
  on conflict (monime_transaction_id) do update set
    company_id = coalesce(excluded.company_id, u.company_id),
    request = case when excluded.reason is null then u.request else excluded.request end,
    reason = coalesce(excluded.reason, u.reason),
    last_seen_at = case when excluded.reason is null then u.last_seen_at else excluded.last_seen_at end,
    attempts = u.attempts + case when excluded.reason is null then 0 else excluded.attempts end,
    earlier_requests = case
      when excluded.reason is null then u.earlier_requests
      when u.request::text = excluded.request::text then (excluded.earlier_requests || u.earlier_requests)[1:9]
      else (excluded.earlier_requests || u.request || u.earlier_requests)[1:9]
    end,
    resolved_at = coalesce(u.resolved_at, excluded.resolved_at),
    ticket_id = coalesce(u.ticket_id, excluded.ticket_id);
end
$$;

comment on function farebox._keep_unapplied_payments(json, farebox._ticket_request[], farebox.ticket_outcome[], timestamptz) is
  'Internal: keeps rejected payments, resolves kept ones that have their ticket';

reset role;

-- [copy of db/functions/create_tickets.sql]
-- Purpose: payments become tickets, exactly once each, as if the elements were applied one after the other.
-- Parameters: p_batch, an array of at most 10,000 requests.  Returns: one outcome for each, in order.
-- Raises: TK001, TK002; 40001 for callers in REPEATABLE READ or SERIALIZABLE that another caller has overtaken.
-- Locks and writes, in the one order of db/README.md: payment_codes (by id), tickets (by payment), transactions, unapplied_payments (by payment).
set role farebox_owner;

create function farebox.create_tickets(p_batch json)
returns setof farebox.ticket_outcome
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
-- The plans must not hang on statistics: the look-ups are shaped so that they go by index, and nothing is planned twice.
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
declare
  v_length int := farebox._batch_length(p_batch);
  v_now timestamptz := farebox._now();
  v_read record;
  v_requests farebox._ticket_request[];
  v_codes uuid[];
  v_allocated record;
  v_created int;
  v_recorded record;
  v_outcomes farebox.ticket_outcome[];
begin
  -- Before anything is read: whoever deletes a route or a code waits for us or has finished (see _refuse_delete_when_sold).
  lock table farebox.tickets in row exclusive mode;

  begin
    v_read := farebox._read_requests(p_batch, v_now);
  exception when data_exception then
    v_read := farebox._read_requests(farebox._clean_batch(p_batch), v_now);
  end;
  v_requests := v_read.requests;

  if not v_read.has_code then
    v_created := farebox._insert_tickets(v_requests, v_now);
  else
    v_codes := array(
      select distinct r.payment_code_id from unnest(v_requests) as r
      where r.reason is null and r.payment_code_id is not null);
    perform from farebox.payment_codes as k where k.id = any (v_codes) order by k.id for no key update;
    v_now := farebox._now();
    v_requests := farebox._refuse_codes(v_requests, v_now);
    -- A loop, because where a code runs out inside the batch, a ticket lost to another caller frees a use for an element that
    -- was refused. Then all is taken back, so that the tickets are again written in their one order, and allocated anew.
    loop
      v_allocated := farebox._allocate_codes(v_requests);
      if not v_allocated.runs_out then
        v_created := farebox._insert_tickets(v_allocated.requests, v_now);
        exit;
      end if;
      begin
        v_created := farebox._insert_tickets(v_allocated.requests, v_now);
        exit when v_created = v_allocated.winners;
        raise exception using errcode = 'TK000', message = 'another caller was faster';
      exception when sqlstate 'TK000' then
        v_requests := farebox._recognise_tickets(v_requests);
      end;
    end loop;
    v_requests := v_allocated.requests;
  end if;

  -- The short way of what nearly all batches are: every element became a ticket.
  if v_created = v_length and not v_read.has_unapplied then
    v_recorded := farebox._record_transactions(v_requests, v_now);
    if v_recorded.all_stand then
      return query
        select r.ordinal, r.given_id, 'created', null::text, r.ticket_id, null::uuid, null::text[], true
        from unnest(v_requests) as r;
      return;
    end if;
  end if;

  v_outcomes := farebox._judge_requests(v_requests, v_created);
  if exists (select from unnest(v_outcomes) as o where o.ticket_id is not null and not o.transaction_recorded) then
    v_outcomes := farebox._repair_records(v_outcomes, v_now, p_write => v_recorded is null);
  end if;
  if v_read.has_unapplied or exists (select from unnest(v_outcomes) as o where o.outcome = 'rejected') then
    perform farebox._keep_unapplied_payments(p_batch, v_requests, v_outcomes, v_now);
  end if;
  return query select o.* from unnest(v_outcomes) as o;
end
$$;

comment on function farebox.create_tickets(json) is
  'Payments become tickets, exactly once each; one outcome for each element of the batch, in order';

reset role;

-- [copy of db/functions/create_ticket.sql]
-- Purpose: create_tickets for a single payment.
-- Parameters: p_ticket, one request.  Returns: its one outcome.  Raises, locks and writes: as create_tickets.
set role farebox_owner;

create function farebox.create_ticket(p_ticket json)
returns setof farebox.ticket_outcome
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  if p_ticket is null then
    raise exception using errcode = 'TK001',
      message = 'the ticket is null',
      hint = 'pass an object: {"company_id": …}';
  end if;
  return query select * from farebox.create_tickets(json_build_array(p_ticket));
end
$$;

comment on function farebox.create_ticket(json) is 'A payment becomes a ticket, exactly once; its one outcome';

reset role;

-- [copy of db/functions/record_missing_transactions.sql]
-- Purpose: writes the transaction records that could not be written when their tickets were created.
-- Parameters: p_limit, 1 to 10,000.  Returns: how many it wrote; call again while that is p_limit.
-- Raises: TK003.  Locks and writes: tickets (rows, those another repair holds are left to it), transactions.
set role farebox_owner;

create function farebox.record_missing_transactions(p_limit int default 1000)
returns int
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_tickets farebox._ticket_request[];
  v_written int := 0;
begin
  perform farebox._check_limit(p_limit, 10000);

  select array_agg(farebox._record_of(t.*) order by t.id)
  into v_tickets
  from (
    select t.*
    from farebox.tickets as t
    where not exists (select from farebox.transactions as x where x.ticket_id = t.id)
    limit p_limit
    for no key update skip locked
  ) as t;
  if v_tickets is not null then
    select r.written into v_written from farebox._record_transactions(v_tickets, farebox._now()) as r;
  end if;
  return v_written;
end
$$;

comment on function farebox.record_missing_transactions(int) is
  'Writes transaction records that are missing, exactly once each; how many it wrote';

reset role;

-- [copy of db/functions/apply_unapplied_payments.sql]
-- Purpose: tries kept payments again, those first that were tried longest ago.
-- Parameters: p_limit, 1 to 10,000; p_reason, only payments rejected for it (null = any).  Returns: their outcomes, as create_tickets.
-- Raises: TK003; as create_tickets.  Locks and writes: as create_tickets, which also resolves the rows. No row is locked before,
--   or the one order of locks would be broken; two callers at once may try the same payment, which is harmless.
set role farebox_owner;

create function farebox.apply_unapplied_payments(p_limit int default 1000, p_reason text default null)
returns setof farebox.ticket_outcome
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_batch json;
begin
  perform farebox._check_limit(p_limit, 10000);

  select json_agg(u.request order by u.last_seen_at, u.monime_transaction_id)
  into v_batch
  from (
    select u.request, u.last_seen_at, u.monime_transaction_id
    from farebox.unapplied_payments as u
    where u.resolved_at is null and (p_reason is null or u.reason = p_reason)
    order by u.last_seen_at, u.monime_transaction_id
    limit p_limit
  ) as u;
  if v_batch is not null then
    return query select * from farebox.create_tickets(v_batch);
  end if;
end
$$;

comment on function farebox.apply_unapplied_payments(int, text) is
  'Tries unapplied payments again; a success resolves the row';

reset role;

-- [copy of db/functions/upsert_companies.sql]
-- Purpose: adds and changes companies. An element without an id is a new company; absent keys keep what is stored.
-- Parameters: p_batch of {id?, name, monime_account_id?, commission_rate?, status?}.  Returns: created, updated, unchanged or rejected for each.
-- Raises: TK001, TK002.  Locks and writes: companies (by id).
set role farebox_owner;

create function farebox.upsert_companies(p_batch json)
returns setof farebox.catalog_outcome
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_element record;
  v_old farebox.companies;
  v_new farebox.companies;
  v_outcomes farebox.catalog_outcome[] := '{}'::farebox.catalog_outcome[];
  v_outcome text;
  v_reason text;
begin
  perform farebox._batch_length(p_batch);

  -- A loop, because a company may stand in the batch twice and the second change builds on the first. By id, so that two
  -- callers lock in one direction; elements of one id keep their order, and those of different ids do not touch each other.
  for v_element in
    select o.ordinal::int as ordinal, o.object, farebox._uuid(farebox._jsonb_text(o.object, 'id')) as id
    from (
      select e.ordinal, farebox._json_object(e.value) as object
      from json_array_elements(p_batch) with ordinality as e(value, ordinal)
    ) as o
    order by id, ordinal
  loop
    loop
      select c.* into v_old from farebox.companies as c where c.id = v_element.id for no key update;
      v_new := v_old;
      v_new.id := coalesce(v_element.id, farebox._uuid_v7());
      v_new.name := case when v_element.object ? 'name' then farebox._jsonb_text(v_element.object, 'name') else v_old.name end;
      v_new.monime_account_id := case when v_element.object ? 'monime_account_id'
        then farebox._jsonb_text(v_element.object, 'monime_account_id') else v_old.monime_account_id end;
      v_new.commission_rate := case when v_element.object ? 'commission_rate'
        then farebox._number(v_element.object ->> 'commission_rate', 0, 1, 4) else coalesce(v_old.commission_rate, 0.05) end;
      v_new.status := case when v_element.object ? 'status'
        then farebox._jsonb_text(v_element.object, 'status') else coalesce(v_old.status, 'active') end;
      v_new.created_at := coalesce(v_old.created_at, farebox._now());

      v_outcome := 'rejected';
      v_reason := case
        when v_element.object is null then 'element_invalid'
        when coalesce(v_element.object -> 'id', 'null') <> 'null' and v_element.id is null then 'company_id_invalid'
        when coalesce(length(v_new.name), 0) not between 1 and 200 then 'name_invalid'
        when coalesce(v_element.object -> 'monime_account_id', 'null') <> 'null'
          and coalesce(length(v_new.monime_account_id), 0) not between 1 and 64 then 'monime_account_id_invalid'
        when v_new.commission_rate is null then 'commission_rate_invalid'
        when v_new.status not in ('active', 'suspended') or v_new.status is null then 'status_invalid'
      end;
      exit when v_reason is not null;

      if v_old.id is not null then
        v_outcome := case when v_new is distinct from v_old then 'updated' else 'unchanged' end;
        if v_outcome = 'updated' then
          update farebox.companies as c
          set name = v_new.name, monime_account_id = v_new.monime_account_id, commission_rate = v_new.commission_rate,
            status = v_new.status
          where c.id = v_new.id;
        end if;
        exit;
      end if;
      insert into farebox.companies select v_new.* on conflict (id) do nothing;
      v_outcome := 'created';
      exit when found;  -- else another caller has just created it: look again
    end loop;
    v_outcomes := v_outcomes || row(v_element.ordinal, case when v_reason is null then v_new.id else v_element.id end,
      v_outcome, v_reason)::farebox.catalog_outcome;
  end loop;

  return query select o.* from unnest(v_outcomes) as o order by o.ordinal;
end
$$;

comment on function farebox.upsert_companies(json) is 'Adds and changes companies; one outcome for each element, in order';

reset role;

-- [copy of db/functions/upsert_routes.sql]
-- Purpose: adds and changes routes. An element without an id is a new route; absent keys keep what is stored.
-- Parameters: p_batch of {id?, company_id, name, origin, destination, fare, status?}.  Returns: created, updated, unchanged or rejected for each.
-- Raises: TK001, TK002.  Locks and writes: routes (by id), their companies (shared, by the foreign key).
set role farebox_owner;

create function farebox.upsert_routes(p_batch json)
returns setof farebox.catalog_outcome
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_element record;
  v_old farebox.routes;
  v_new farebox.routes;
  v_outcomes farebox.catalog_outcome[] := '{}'::farebox.catalog_outcome[];
  v_outcome text;
  v_reason text;
begin
  perform farebox._batch_length(p_batch);

  -- A loop, by id: as in upsert_companies.
  for v_element in
    select o.ordinal::int as ordinal, o.object, farebox._uuid(farebox._jsonb_text(o.object, 'id')) as id,
      farebox._uuid(farebox._jsonb_text(o.object, 'company_id')) as company_id
    from (
      select e.ordinal, farebox._json_object(e.value) as object
      from json_array_elements(p_batch) with ordinality as e(value, ordinal)
    ) as o
    order by id, ordinal
  loop
    loop
      select r.* into v_old from farebox.routes as r where r.id = v_element.id for no key update;
      v_new := v_old;
      v_new.id := coalesce(v_element.id, farebox._uuid_v7());
      v_new.company_id := v_element.company_id;
      v_new.name := case when v_element.object ? 'name' then farebox._jsonb_text(v_element.object, 'name') else v_old.name end;
      v_new.origin := case when v_element.object ? 'origin' then farebox._jsonb_text(v_element.object, 'origin') else v_old.origin end;
      v_new.destination := case when v_element.object ? 'destination'
        then farebox._jsonb_text(v_element.object, 'destination') else v_old.destination end;
      v_new.fare := case when v_element.object ? 'fare' then farebox._amount(v_element.object ->> 'fare') else v_old.fare end;
      v_new.status := case when v_element.object ? 'status'
        then farebox._jsonb_text(v_element.object, 'status') else coalesce(v_old.status, 'active') end;
      v_new.created_at := coalesce(v_old.created_at, farebox._now());

      v_outcome := 'rejected';
      v_reason := case
        when v_element.object is null then 'element_invalid'
        when coalesce(v_element.object -> 'id', 'null') <> 'null' and v_element.id is null then 'route_id_invalid'
        when v_element.company_id is null then 'company_id_invalid'
        when coalesce(length(v_new.name), 0) not between 1 and 200 then 'name_invalid'
        when coalesce(length(v_new.origin), 0) not between 1 and 200 then 'origin_invalid'
        when coalesce(length(v_new.destination), 0) not between 1 and 200 then 'destination_invalid'
        when v_new.fare is null then 'fare_invalid'
        when v_new.status not in ('active', 'inactive') or v_new.status is null then 'status_invalid'
        when v_old.company_id <> v_element.company_id then 'company_mismatch'
        when not exists (select from farebox.companies as c where c.id = v_element.company_id) then 'company_not_found'
      end;
      exit when v_reason is not null;

      if v_old.id is not null then
        v_outcome := case when v_new is distinct from v_old then 'updated' else 'unchanged' end;
        if v_outcome = 'updated' then
          update farebox.routes as r
          set name = v_new.name, origin = v_new.origin, destination = v_new.destination, fare = v_new.fare, status = v_new.status
          where r.id = v_new.id;
        end if;
        exit;
      end if;
      insert into farebox.routes select v_new.* on conflict (id) do nothing;
      v_outcome := 'created';
      exit when found;  -- else another caller has just created it: look again
    end loop;
    v_outcomes := v_outcomes || row(v_element.ordinal, case when v_reason is null then v_new.id else v_element.id end,
      v_outcome, v_reason)::farebox.catalog_outcome;
  end loop;

  return query select o.* from unnest(v_outcomes) as o order by o.ordinal;
end
$$;

comment on function farebox.upsert_routes(json) is 'Adds and changes routes; one outcome for each element, in order';

reset role;

-- [copy of db/functions/issue_payment_codes.sql]
-- Purpose: issues payment codes, and changes the limit or the end of issued ones. The code itself names the row, so a retry is harmless.
-- Parameters: p_batch of {id?, company_id, route_id?, code, total_tickets, expires_at?}; on an issued code absent keys keep what is stored.
-- Returns: created, updated, unchanged or rejected for each.  Raises: TK001, TK002.  Locks and writes: payment_codes (by id).
set role farebox_owner;

create function farebox.issue_payment_codes(p_batch json)
returns setof farebox.catalog_outcome
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_element record;
  v_old farebox.payment_codes;
  v_new farebox.payment_codes;
  v_outcomes farebox.catalog_outcome[] := '{}'::farebox.catalog_outcome[];
  v_outcome text;
  v_reason text;
begin
  perform farebox._batch_length(p_batch);

  -- The issued codes of the batch are locked first, in the one order that create_tickets locks them in.
  perform from farebox.payment_codes as k
  where k.code = any (array(
    select farebox._jsonb_text(farebox._json_object(e.value), 'code') from json_array_elements(p_batch) as e))
  order by k.id
  for no key update;

  -- A loop, because a code may stand in the batch twice and the second change builds on the first. New codes are inserted in the
  -- order of the code, so that two callers wait in one direction.
  for v_element in
    select o.ordinal::int as ordinal, o.object, farebox._jsonb_text(o.object, 'code') as code,
      farebox._uuid(farebox._jsonb_text(o.object, 'id')) as id,
      farebox._uuid(farebox._jsonb_text(o.object, 'company_id')) as company_id,
      farebox._uuid(farebox._jsonb_text(o.object, 'route_id')) as route_id
    from (
      select e.ordinal, farebox._json_object(e.value) as object
      from json_array_elements(p_batch) with ordinality as e(value, ordinal)
    ) as o
    order by farebox._jsonb_text(o.object, 'code') collate "C", o.ordinal
  loop
    loop
      select k.* into v_old from farebox.payment_codes as k where k.code = v_element.code for no key update;
      v_new := v_old;
      v_new.id := coalesce(v_old.id, v_element.id, farebox._uuid_v7());
      v_new.company_id := v_element.company_id;
      v_new.code := v_element.code;
      v_new.route_id := case when v_element.object ? 'route_id' then v_element.route_id else v_old.route_id end;
      v_new.total_tickets := case when v_element.object ? 'total_tickets'
        then farebox._number(v_element.object ->> 'total_tickets', 1, 2147483647, 0) else v_old.total_tickets end;
      v_new.used_tickets := coalesce(v_old.used_tickets, 0);
      v_new.status := coalesce(v_old.status, 'active');
      v_new.created_at := coalesce(v_old.created_at, farebox._now());
      if v_element.object ? 'expires_at' then
        v_new.expires_at := farebox._timestamp(farebox._jsonb_text(v_element.object, 'expires_at'));
      end if;

      v_outcome := 'rejected';
      v_reason := case
        when v_element.object is null then 'element_invalid'
        when coalesce(v_element.object -> 'id', 'null') <> 'null' and v_element.id is null then 'payment_code_id_invalid'
        when v_element.company_id is null then 'company_id_invalid'
        when coalesce(v_element.object -> 'route_id', 'null') <> 'null' and v_element.route_id is null then 'route_id_invalid'
        when coalesce(length(v_element.code), 0) not between 1 and 64 then 'code_invalid'
        when v_new.total_tickets is null then 'total_tickets_invalid'
        when coalesce(v_element.object -> 'expires_at', 'null') <> 'null' and v_new.expires_at is null then 'expires_at_invalid'
        when not exists (select from farebox.companies as c where c.id = v_element.company_id) then 'company_not_found'
        when v_new.route_id is not null and not exists (
          select from farebox.routes as r where r.id = v_new.route_id and r.company_id = v_element.company_id) then 'route_not_found'
        when v_old.company_id <> v_element.company_id or v_element.id <> v_old.id
          or v_old.id is not null and v_new.route_id is distinct from v_old.route_id then 'code_taken'
        when v_new.total_tickets < v_old.used_tickets then 'total_below_used'
        when v_old.status = 'cancelled' and v_new is distinct from v_old then 'code_cancelled'
      end;
      exit when v_reason is not null;

      if v_old.id is not null then
        v_outcome := case when v_new is distinct from v_old then 'updated' else 'unchanged' end;
        if v_outcome = 'updated' then
          -- The status follows: see _follow_code_limit.
          update farebox.payment_codes as k
          set total_tickets = v_new.total_tickets, expires_at = v_new.expires_at
          where k.id = v_new.id;
        end if;
        exit;
      end if;
      insert into farebox.payment_codes select v_new.* on conflict do nothing;
      v_outcome := 'created';
      exit when found;
      -- Another caller has just issued the code: look again. Or the id belongs to another code.
      if not exists (select from farebox.payment_codes as k where k.code = v_element.code) then
        v_outcome := 'rejected';
        v_reason := 'code_taken';
        exit;
      end if;
    end loop;
    v_outcomes := v_outcomes || row(v_element.ordinal, case when v_reason is null then v_new.id else v_element.id end,
      v_outcome, v_reason)::farebox.catalog_outcome;
  end loop;

  return query select o.* from unnest(v_outcomes) as o order by o.ordinal;
end
$$;

comment on function farebox.issue_payment_codes(json) is
  'Issues payment codes, or changes their limit or end; one outcome for each element, in order';

reset role;

-- [copy of db/functions/cancel_payment_codes.sql]
-- Purpose: cancels payment codes: they buy nothing more, what they bought stands.
-- Parameters: p_batch of {company_id, code}.  Returns: cancelled, unchanged (it was before) or rejected for each.
-- Raises: TK001, TK002.  Locks and writes: payment_codes (by id).
set role farebox_owner;

create function farebox.cancel_payment_codes(p_batch json)
returns setof farebox.catalog_outcome
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform farebox._batch_length(p_batch);

  perform from farebox.payment_codes as k
  where k.code = any (array(
    select farebox._jsonb_text(farebox._json_object(e.value), 'code') from json_array_elements(p_batch) as e))
  order by k.id
  for no key update;

  return query
    with element as materialized (
      select e.ordinal::int as ordinal, o.object is null as is_invalid,
        farebox._uuid(farebox._jsonb_text(o.object, 'company_id')) as company_id, farebox._jsonb_text(o.object, 'code') as code
      from json_array_elements(p_batch) with ordinality as e(value, ordinal)
      cross join lateral (select farebox._json_object(e.value) as object offset 0) as o
    ),
    target as materialized (
      select e.*, k.id, k.status,
        row_number() over (partition by k.id order by e.ordinal) = 1 and k.status <> 'cancelled' as is_cancelling
      from element as e
      left join lateral (
        select k.id, k.status from farebox.payment_codes as k
        where k.code = e.code and k.company_id = e.company_id offset 0) as k on true
    ),
    cancelled as (
      update farebox.payment_codes as k
      set status = 'cancelled'
      where k.id = any (array(select t.id from target as t where t.is_cancelling))
    )
    select
      t.ordinal,
      t.id,
      case when t.id is null then 'rejected' when t.is_cancelling then 'cancelled' else 'unchanged' end,
      case
        when t.is_invalid then 'element_invalid'
        when t.company_id is null then 'company_id_invalid'
        when coalesce(length(t.code), 0) not between 1 and 64 then 'code_invalid'
        when t.id is null then 'code_not_found'
      end
    from target as t
    order by t.ordinal;
end
$$;

comment on function farebox.cancel_payment_codes(json) is 'Cancels payment codes; one outcome for each element, in order';

reset role;

-- [copy of db/functions/expire_payment_codes.sql]
-- Purpose: marks the codes whose time is over. They buy nothing more from that time on anyway; this keeps lists and counts honest.
-- Parameters: p_limit, 1 to 10,000.  Returns: how many it marked; call again while that is p_limit.
-- Raises: TK003.  Locks and writes: payment_codes; those in use right now are left to the next call.
set role farebox_owner;

create function farebox.expire_payment_codes(p_limit int default 1000)
returns int
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_codes uuid[];
  v_now timestamptz := farebox._now();
begin
  perform farebox._check_limit(p_limit, 10000);

  v_codes := array(
    select k.id from farebox.payment_codes as k
    where k.status = 'active' and k.expires_at <= v_now
    order by k.id
    limit p_limit
    for no key update skip locked);
  update farebox.payment_codes as k set status = 'expired' where k.id = any (v_codes);
  return cardinality(v_codes);
end
$$;

comment on function farebox.expire_payment_codes(int) is 'Marks active payment codes whose time is over as expired; how many';

reset role;

-- [copy of db/functions/list_companies.sql]
-- Purpose: companies by id, that is by age, a page at a time.
-- Parameters: p_limit, 1 to 1,000; p_after_id, the last id of the page before.  Returns: the companies.  Raises: TK003.
set role farebox_owner;

create function farebox.list_companies(p_limit int default 100, p_after_id uuid default null)
returns setof farebox.companies
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform farebox._check_limit(p_limit, 1000);
  return query
    select c.* from farebox.companies as c
    where p_after_id is null or c.id > p_after_id
    order by c.id
    limit p_limit;
end
$$;

comment on function farebox.list_companies(int, uuid) is
  'Companies by id, by keyset pages';

reset role;

-- [copy of db/functions/list_routes.sql]
-- Purpose: a company's routes by id, that is by age, a page at a time.
-- Parameters: p_limit, 1 to 1,000; p_after_id, the last id of the page before.  Returns: the routes.  Raises: TK003.
set role farebox_owner;

create function farebox.list_routes(p_company_id uuid, p_limit int default 100, p_after_id uuid default null)
returns setof farebox.routes
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform farebox._check_limit(p_limit, 1000);
  return query
    select r.* from farebox.routes as r
    where r.company_id = p_company_id and (p_after_id is null or r.id > p_after_id)
    order by r.id
    limit p_limit;
end
$$;

comment on function farebox.list_routes(uuid, int, uuid) is
  'A company''s routes by id, by keyset pages';

reset role;

-- [copy of db/functions/list_payment_codes.sql]
-- Purpose: a company's payment codes by id, that is by age, a page at a time.
-- Parameters: p_limit, 1 to 1,000; p_after_id, the last id of the page before.  Returns: the payment codes.  Raises: TK003.
set role farebox_owner;

create function farebox.list_payment_codes(p_company_id uuid, p_limit int default 100, p_after_id uuid default null)
returns setof farebox.payment_codes
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform farebox._check_limit(p_limit, 1000);
  return query
    select k.* from farebox.payment_codes as k
    where k.company_id = p_company_id and (p_after_id is null or k.id > p_after_id)
    order by k.id
    limit p_limit;
end
$$;

comment on function farebox.list_payment_codes(uuid, int, uuid) is
  'A company''s payment codes by id, by keyset pages';

reset role;

-- [copy of db/functions/list_unapplied_payments.sql]
-- Purpose: kept payments, those first that were tried longest ago, a page at a time.
-- Parameters: p_limit, 1 to 1,000; p_reason (null = any); the last row of the page before; p_include_resolved.
-- Returns: the rows.  Raises: TK003.
set role farebox_owner;

create function farebox.list_unapplied_payments(p_limit int default 100, p_reason text default null,
  p_after_last_seen_at timestamptz default null, p_after_transaction_id text default null, p_include_resolved boolean default false)
returns setof farebox.unapplied_payments
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform farebox._check_limit(p_limit, 1000);
  return query
    select u.* from farebox.unapplied_payments as u
    where (p_include_resolved or u.resolved_at is null)
      and (p_reason is null or u.reason = p_reason)
      and u.last_seen_at >= coalesce(p_after_last_seen_at, '-infinity')
      and (p_after_last_seen_at is null
        or (u.last_seen_at, u.monime_transaction_id) > (p_after_last_seen_at, p_after_transaction_id collate "C"))
    order by u.last_seen_at, u.monime_transaction_id
    limit p_limit;
end
$$;

comment on function farebox.list_unapplied_payments(int, text, timestamptz, text, boolean) is
  'Unapplied payments, tried longest ago first, by keyset pages';

reset role;

-- [copy of db/functions/get_company.sql]
-- Purpose: one company.
-- Returns: the company, or no row.
set role farebox_owner;

create function farebox.get_company(p_company_id uuid)
returns setof farebox.companies
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  return query select c.* from farebox.companies as c where c.id = p_company_id;
end
$$;

comment on function farebox.get_company(uuid) is
  'One company';

reset role;

-- [copy of db/functions/get_route.sql]
-- Purpose: one route of a company.
-- Returns: the route, or no row; none when it is another company's.
set role farebox_owner;

create function farebox.get_route(p_company_id uuid, p_route_id uuid)
returns setof farebox.routes
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  return query select r.* from farebox.routes as r where r.id = p_route_id and r.company_id = p_company_id;
end
$$;

comment on function farebox.get_route(uuid, uuid) is
  'One route of a company';

reset role;

-- [copy of db/functions/get_payment_code.sql]
-- Purpose: one payment code of a company.
-- Parameters: p_code, trimmed.  Returns: the code, or no row; none when it is another company's.
set role farebox_owner;

create function farebox.get_payment_code(p_company_id uuid, p_code text)
returns setof farebox.payment_codes
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  return query
    select k.* from farebox.payment_codes as k
    where k.code = farebox._trimmed(p_code) and k.company_id = p_company_id;
end
$$;

comment on function farebox.get_payment_code(uuid, text) is
  'One payment code of a company';

reset role;

-- [copy of db/functions/get_ticket.sql]
-- Purpose: one ticket.
-- Parameters: p_ticket_id; p_company_id, when given, the ticket must be this company's.  Returns: the ticket, or no row.
set role farebox_owner;

create function farebox.get_ticket(p_ticket_id uuid, p_company_id uuid default null)
returns setof farebox.ticket_view
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
-- The same index on an empty database as on a full one.
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
begin
  return query
    select
      t.id, t.company_id, t.route_id, t.passenger_phone, t.monime_transaction_id, t.monime_otp, t.payment_code_id,
      (select k.code from farebox.payment_codes as k where k.id = t.payment_code_id), t.amount, t.commission_rate, t.status, t.created_at
    from farebox.tickets as t
    where t.id = p_ticket_id and (p_company_id is null or t.company_id = p_company_id);
end
$$;

comment on function farebox.get_ticket(uuid, uuid) is
  'One ticket by its id, within a company when one is given';

reset role;

-- [copy of db/functions/tickets_by_phone.sql]
-- Purpose: a passenger's tickets at one company, newest first, a page at a time.
-- Parameters: p_phone, in any form a payment may have it; p_limit, 1 to 1,000; the last row of the page before (created_at and id).
-- Returns: the tickets.  Raises: TK003.
set role farebox_owner;

create function farebox.tickets_by_phone(p_company_id uuid, p_phone text, p_limit int default 50,
  p_before_created_at timestamptz default null, p_before_id uuid default null)
returns setof farebox.ticket_view
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
-- The same index on an empty database as on a full one.
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
begin
  perform farebox._check_limit(p_limit, 1000);
  return query
    select
      t.id, t.company_id, t.route_id, t.passenger_phone, t.monime_transaction_id, t.monime_otp, t.payment_code_id,
      (select k.code from farebox.payment_codes as k where k.id = t.payment_code_id), t.amount, t.commission_rate, t.status, t.created_at
    from farebox.tickets as t
    where t.passenger_phone = farebox._phone(p_phone) and t.company_id = p_company_id
      and (p_before_created_at is null or (t.created_at, t.id) < (p_before_created_at, p_before_id))
    order by t.created_at desc, t.id desc
    limit p_limit;
end
$$;

comment on function farebox.tickets_by_phone(uuid, text, int, timestamptz, uuid) is
  'A passenger''s tickets at one company, newest first, by keyset pages';

reset role;

-- [copy of db/functions/pending_tickets.sql]
-- Purpose: a company's pending tickets, oldest first, a page at a time.
-- Parameters: p_limit, 1 to 1,000; the last row of the page before (created_at and id).
-- Returns: the tickets.  Raises: TK003.
set role farebox_owner;

create function farebox.pending_tickets(p_company_id uuid, p_limit int default 100,
  p_after_created_at timestamptz default null, p_after_id uuid default null)
returns setof farebox.ticket_view
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
-- The same index on an empty database as on a full one.
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
begin
  perform farebox._check_limit(p_limit, 1000);
  return query
    select
      t.id, t.company_id, t.route_id, t.passenger_phone, t.monime_transaction_id, t.monime_otp, t.payment_code_id,
      (select k.code from farebox.payment_codes as k where k.id = t.payment_code_id), t.amount, t.commission_rate, t.status, t.created_at
    from farebox.tickets as t
    where t.company_id = p_company_id and t.status = 'pending'
      and t.created_at >= coalesce(p_after_created_at, '-infinity')
      and (p_after_created_at is null or (t.created_at, t.id) > (p_after_created_at, p_after_id))
    order by t.created_at, t.id
    limit p_limit;
end
$$;

comment on function farebox.pending_tickets(uuid, int, timestamptz, uuid) is
  'A company''s pending tickets, oldest first, by keyset pages';

reset role;

-- [copy of db/functions/company_summary.sql]
-- Purpose: a company's sales in a span of time.
-- Parameters: p_from (null = from the first), p_to (null = to the last), half-open.  Returns: one row, or none when there is no such company.
--   Gross, commission and net amount (minor units) count every ticket that was not cancelled.
set role farebox_owner;

create function farebox.company_summary(p_company_id uuid, p_from timestamptz default null, p_to timestamptz default null)
returns table (company_id uuid, tickets bigint, pending bigint, used bigint, expired bigint, cancelled bigint,
  gross bigint, commission bigint, net_amount bigint)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
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

-- [copy of db/functions/verify.sql]
-- Purpose: proves the whole database: one row for each broken invariant, none when all is well. Safe under load: one statement, one snapshot.
-- Returns: the invariant's name, the row it was found on, what is wrong there.
set role farebox_owner;

create function farebox.verify()
returns setof farebox.violation
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set jit = off
as $$
begin
  return query
    with carried as (
      select t.payment_code_id, count(*) as tickets
      from farebox.tickets as t
      where t.payment_code_id is not null
      group by t.payment_code_id
    )
    select 'code_counter_is_exact', 'payment_code ' || k.id,
      format('used_tickets is %s, %s tickets carry the code', k.used_tickets, coalesce(c.tickets, 0))
    from farebox.payment_codes as k
    left join carried as c on c.payment_code_id = k.id
    where k.used_tickets <> coalesce(c.tickets, 0)

    union all
    select 'code_is_within_limit', 'payment_code ' || k.id,
      format('%s of %s tickets used', greatest(k.used_tickets, c.tickets), k.total_tickets)
    from farebox.payment_codes as k
    left join carried as c on c.payment_code_id = k.id
    where greatest(k.used_tickets, c.tickets) > k.total_tickets

    union all
    select 'spent_code_is_not_active', 'payment_code ' || k.id, format('all %s tickets used, still active', k.total_tickets)
    from farebox.payment_codes as k
    where k.status = 'active' and k.used_tickets >= k.total_tickets

    union all
    select 'ticket_has_record', 'ticket ' || t.id, 'no transaction record; farebox.record_missing_transactions() writes it'
    from farebox.tickets as t
    where not exists (select from farebox.transactions as x where x.ticket_id = t.id)

    union all
    select 'record_has_ticket', 'transaction ' || x.ticket_id, format('no such ticket, amount %s', x.amount)
    from farebox.transactions as x
    where not exists (select from farebox.tickets as t where t.id = x.ticket_id)

    union all
    select 'record_agrees_with_ticket', 'transaction ' || x.ticket_id,
      format('amount %s, commission %s, net amount %s, company %s; the ticket says amount %s, commission %s, company %s',
        x.amount, x.commission, x.net_amount, x.company_id, t.amount, farebox._commission(t.amount, t.commission_rate), t.company_id)
    from farebox.transactions as x
    join farebox.tickets as t on t.id = x.ticket_id
    where x.amount <> t.amount or x.company_id <> t.company_id
      or x.commission <> farebox._commission(t.amount, t.commission_rate) or x.net_amount <> x.amount - x.commission

    union all
    select 'ticket_has_its_route', 'ticket ' || t.id, format('route %s does not exist or is not of company %s', t.route_id, t.company_id)
    from farebox.tickets as t
    where not exists (select from farebox.routes as r where r.id = t.route_id and r.company_id = t.company_id)

    union all
    select 'ticket_has_its_code', 'ticket ' || t.id,
      format('payment code %s does not exist or is not of company %s', t.payment_code_id, t.company_id)
    from farebox.tickets as t
    where t.payment_code_id is not null
      and not exists (select from farebox.payment_codes as k where k.id = t.payment_code_id and k.company_id = t.company_id)

    union all
    select 'resolved_payment_has_ticket', 'payment ' || u.monime_transaction_id,
      format('resolved by ticket %s, which does not exist or is another payment''s', u.ticket_id)
    from farebox.unapplied_payments as u
    where u.resolved_at is not null
      and not exists (select from farebox.tickets as t where t.id = u.ticket_id and t.monime_transaction_id = u.monime_transaction_id);
end
$$;

comment on function farebox.verify() is 'One row for each broken invariant of the whole database; no row when all is well';

reset role;

-- [copy of db/functions/bind_company_login.sql]
-- Purpose: binds a database login to the one company it may read. The login must exist and be in farebox_company to use it.
-- Parameters: p_login, a role; p_company_id, null = unbind.  Returns: nothing.  Raises: 42704 no such role, 23503 no such company.
set role farebox_owner;

create function farebox.bind_company_login(p_login name, p_company_id uuid)
returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  if p_company_id is null then
    delete from farebox.company_logins as l where l.login = p_login;
    return;
  end if;
  if not exists (select from pg_roles as r where r.rolname = p_login) then
    raise exception using errcode = 'undefined_object',
      message = format('there is no role %s', quote_ident(p_login)),
      hint = format('create it first: create role %s login in role farebox_company', quote_ident(p_login));
  end if;
  insert into farebox.company_logins as l (login, company_id) values (p_login, p_company_id)
  on conflict (login) do update set company_id = excluded.company_id;
end
$$;

comment on function farebox.bind_company_login(name, uuid) is
  'Binds a database login to the company it may read; null unbinds it';

reset role;

-- [copy of db/functions/_login_company.sql]
-- Purpose: the company that the current login may read; the policies of row-level security ask it once a statement.
-- Returns: the company the login is bound to; for a login that is not bound, the one named by the setting farebox.company_id; else null.
--   Both the login and a role it has taken with SET ROLE may be bound: the login's binding wins, and no setting overrides either.
set role farebox_owner;

create function farebox._login_company()
returns uuid
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_company_id uuid;
begin
  select l.company_id into v_company_id
  from farebox.company_logins as l
  where l.login in (session_user, current_setting('role'))
  order by l.login = session_user desc
  limit 1;
  return coalesce(v_company_id, farebox._uuid(current_setting('farebox.company_id', true)));
end
$$;

comment on function farebox._login_company() is 'The only company that the current login may read; null = none';

reset role;

-- [copy of db/functions/_follow_code_limit.sql]
-- Purpose: the status of a code follows its limit: lowered to what is used it is spent, raised above it a spent code sells again.
-- Returns: the row.  Fires before a code is inserted or its total_tickets is set; charging a code sets its status itself.
set role farebox_owner;

create function farebox._follow_code_limit()
returns trigger
language plpgsql security invoker
set search_path = pg_catalog, pg_temp
as $$
begin
  if new.status = 'active' and new.used_tickets >= new.total_tickets then
    new.status := 'expired';
  elsif tg_op = 'UPDATE' and new.status = 'expired' and old.status = 'expired'
    and old.used_tickets >= old.total_tickets and new.used_tickets < new.total_tickets
    and (new.expires_at > farebox._now()) is not false
  then
    new.status := 'active';
  end if;
  return new;
end
$$;

comment on function farebox._follow_code_limit() is 'Trigger: the status of a payment code follows its limit';

create trigger payment_codes_status_follows_limit
before insert or update of total_tickets on farebox.payment_codes
for each row execute function farebox._follow_code_limit();
comment on trigger payment_codes_status_follows_limit on farebox.payment_codes is 'The status of a code follows its limit';

reset role;

-- [copy of db/functions/_refuse_delete_when_sold.sql]
-- Purpose: what a ticket names cannot be deleted. In place of foreign keys on tickets, which would lock the same few rows for each ticket.
-- Raises: 23503.  Locks: tickets (share), before any row: create_tickets takes its lock on the table before it reads, so one waits for the other.
set role farebox_owner;

create function farebox._refuse_delete_when_sold()
returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_is_sold boolean;
begin
  if tg_level = 'STATEMENT' then
    lock table farebox.tickets in share mode;
    return null;
  end if;

  if tg_table_name = 'routes' then
    v_is_sold := exists (select from farebox.tickets as t where t.company_id = old.company_id and t.route_id = old.id);
  else
    v_is_sold := old.used_tickets > 0;
  end if;
  if v_is_sold then
    raise exception using errcode = 'foreign_key_violation',
      message = format('%s of %s is named by tickets', old.id, tg_table_name),
      hint = case when tg_table_name = 'routes' then 'set its status to inactive instead' else 'cancel it instead' end;
  end if;
  return old;
end
$$;

comment on function farebox._refuse_delete_when_sold() is 'Trigger: routes and payment codes that tickets name cannot be deleted';

create trigger routes_lock_tickets before delete on farebox.routes
for each statement execute function farebox._refuse_delete_when_sold();
create trigger routes_with_tickets_stay before delete on farebox.routes
for each row execute function farebox._refuse_delete_when_sold();
create trigger payment_codes_lock_tickets before delete on farebox.payment_codes
for each statement execute function farebox._refuse_delete_when_sold();
create trigger payment_codes_with_tickets_stay before delete on farebox.payment_codes
for each row execute function farebox._refuse_delete_when_sold();

comment on trigger routes_lock_tickets on farebox.routes is 'No ticket is created while routes are deleted';
comment on trigger routes_with_tickets_stay on farebox.routes is 'A route that tickets name cannot be deleted';
comment on trigger payment_codes_lock_tickets on farebox.payment_codes is 'No ticket is created while payment codes are deleted';
comment on trigger payment_codes_with_tickets_stay on farebox.payment_codes is 'A payment code that tickets name cannot be deleted';

reset role;

-- [copy of db/functions/_notify_catalog.sql]
-- Purpose: tells the drivers' caches which companies' catalog has changed.
-- Channel farebox_catalog, payload: the company's id, or * for everything. A hint: caches also forget by time.
set role farebox_owner;

create function farebox._notify_catalog()
returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  if tg_op = 'TRUNCATE' then
    perform pg_notify('farebox_catalog', '*');
  elsif tg_level = 'ROW' then
    perform pg_notify('farebox_catalog', old.company_id::text);
  elsif (select count(*) from old_rows) > 100 then
    perform pg_notify('farebox_catalog', '*');
  elsif tg_table_name = 'companies' then
    perform pg_notify('farebox_catalog', o.id::text) from old_rows as o;
  else
    perform pg_notify('farebox_catalog', o.company_id::text) from (select distinct o.company_id from old_rows as o) as o;
  end if;
  return null;
end
$$;

comment on function farebox._notify_catalog() is 'Trigger: tells caches which companies'' catalog has changed';

create trigger companies_notify_update after update on farebox.companies
referencing old table as old_rows for each statement execute function farebox._notify_catalog();
create trigger companies_notify_delete after delete on farebox.companies
referencing old table as old_rows for each statement execute function farebox._notify_catalog();
create trigger companies_notify_truncate after truncate on farebox.companies
for each statement execute function farebox._notify_catalog();
create trigger routes_notify_update after update on farebox.routes
referencing old table as old_rows for each statement execute function farebox._notify_catalog();
create trigger routes_notify_delete after delete on farebox.routes
referencing old table as old_rows for each statement execute function farebox._notify_catalog();
create trigger routes_notify_truncate after truncate on farebox.routes
for each statement execute function farebox._notify_catalog();
create trigger payment_codes_notify_delete after delete on farebox.payment_codes
referencing old table as old_rows for each statement execute function farebox._notify_catalog();
create trigger payment_codes_notify_truncate after truncate on farebox.payment_codes
for each statement execute function farebox._notify_catalog();
-- Charging a code must not notify, not even the use that spends it: a pending NOTIFY makes commits queue for one lock.
create trigger payment_codes_notify_update after update on farebox.payment_codes
for each row
when (new.used_tickets = old.used_tickets and new is distinct from old)
execute function farebox._notify_catalog();

comment on trigger companies_notify_update on farebox.companies is 'Tells caches that companies changed';
comment on trigger companies_notify_delete on farebox.companies is 'Tells caches that companies are gone';
comment on trigger companies_notify_truncate on farebox.companies is 'Tells caches that all companies are gone';
comment on trigger routes_notify_update on farebox.routes is 'Tells caches that routes changed';
comment on trigger routes_notify_delete on farebox.routes is 'Tells caches that routes are gone';
comment on trigger routes_notify_truncate on farebox.routes is 'Tells caches that all routes are gone';
comment on trigger payment_codes_notify_update on farebox.payment_codes is 'Tells caches that a code changed otherwise than by being charged';
comment on trigger payment_codes_notify_delete on farebox.payment_codes is 'Tells caches that codes are gone';
comment on trigger payment_codes_notify_truncate on farebox.payment_codes is 'Tells caches that all codes are gone';

reset role;
