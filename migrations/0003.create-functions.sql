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
-- Parameters: p_element.  Returns: the object, or null when it is no object or holds what no text or number can (a NUL escape, 1e99999, a thousandfold nesting).
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
exception when data_exception or statement_too_complex or program_limit_exceeded then
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
  v_one json;
  v_text text;
  -- What stands for a string with an escape that no text can hold (NUL, half a surrogate pair): longer than any text that is
  -- accepted, so as a transaction id, phone, OTP or code it is refused, and an unknown key stays unknown. It stands for the whole
  -- string: for each escape, a megabyte of them would grow to a hundred.
  c_unreadable constant text := '"' || repeat('\u0001', 65) || '"';
begin
  -- A loop, because each element needs an exception handler of its own: one poisoned element must not cost its neighbours.
  for v_element in select e.value from json_array_elements(p_batch) as e loop
    begin
      if position('\u' in v_element::text) > 0 then
        -- From here on each backslash begins an escape, and each quote a string or ends it.
        v_text := replace(replace(v_element::text, '\\', '\u005c'), '\"', '\u0022');
        v_text := regexp_replace(v_text, '\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})', '\\P\1\2', 'g');
        v_text := regexp_replace(v_text, '"[^"]*\\u(?:0000|[dD][89a-fA-F][0-9a-fA-F]{2})[^"]*"', replace(c_unreadable, '\', '\\'), 'g');
        v_text := regexp_replace(v_text, '\\P([0-9a-fA-F]{4})([0-9a-fA-F]{4})', '\\u\1\\u\2', 'g');
        v_element := v_text::json;
      end if;
      v_one := case when json_typeof(v_element) = 'object' then (
        select json_build_object(
          'company_id', case when json_typeof(r.company_id) = 'string' then farebox._uuid(r.company_id #>> '{}') end,
          'route_id', case when json_typeof(r.route_id) = 'string' then farebox._uuid(r.route_id #>> '{}') end,
          'passenger_phone', r.passenger_phone,
          'monime_transaction_id', case when position(repeat(E'\u0001', 65) in r.monime_transaction_id #>> '{}') = 0
            then r.monime_transaction_id end,
          'monime_otp', r.monime_otp,
          'amount', r.amount,
          'commission_rate', r.commission_rate,
          'payment_code', r.payment_code)
        from json_to_record(v_element) as r(company_id json, route_id json, passenger_phone json,
          monime_transaction_id json, monime_otp json, amount json, commission_rate json, payment_code json)
      ) else '{}'::json end;
    exception when data_exception or statement_too_complex then
      v_one := '{}';  -- unreadable as a whole: it will be rejected for its transaction id
    end;
    v_clean := v_clean || v_one;  -- by itself, so that the array grows in place
  end loop;
  return array_to_json(v_clean);
end
$$;

comment on function farebox._clean_batch(json) is
  'A readable batch from one with non-objects, malformed UUIDs or escapes that no text can hold';

reset role;

-- [copy of db/functions/_shallow_json.sql]
-- Purpose: a batch without what is nested so deeply that the JSON functions run out of stack on it.
-- Parameters: p_batch.  Returns: the batch; what lies deeper than 20 levels is cut out of it.
set role farebox_owner;

create function farebox._shallow_json(p_batch json)
returns json
language sql immutable strict security invoker parallel safe
as $$
  -- Read token by token: a string, a bracket, or what is between them; the depth after each token is known by counting.
  select string_agg(t.token, '' order by t.position)::json
  from (
    select m.position, m.token[1] as token,
      sum(case when m.token[1] in ('[', '{') then 1 when m.token[1] in (']', '}') then -1 else 0 end) over (order by m.position) as depth
    from regexp_matches(p_batch::text, '("(?:[^"\\]|\\.)*"|[][{}]|[^][{}"]+)', 'g') with ordinality as m(token, position)
  ) as t
  where t.depth < 20 or t.depth = 20 and t.token in ('[', '{')
$$;

comment on function farebox._shallow_json(json) is 'Internal: a batch without what is nested deeper than 20 levels';

reset role;

-- [copy of db/functions/_otp.sql]
-- Purpose: the rule for one-time passwords.
-- Parameters: p_text, may be null.  Returns: 4 to 12 of A-Z a-z 0-9, trimmed, or null when it is none.
set role farebox_owner;

create function farebox._otp(p_text text)
returns text
language sql immutable security invoker parallel safe
as $$
  select case
    when p_text collate "C" ~ '^[A-Za-z0-9]+$' and length(p_text) between 4 and 12 then p_text
    when farebox._trimmed(p_text) collate "C" ~ '^[A-Za-z0-9]{4,12}$' then farebox._trimmed(p_text)
  end
$$;

comment on function farebox._otp(text) is 'A one-time password, null when the text is none';

reset role;

-- [copy of db/functions/_shown.sql]
-- Purpose: a text in a form that the session can be sent: one character that its client_encoding lacks would cost the whole answer.
-- Parameters: p_text, may be null.  Returns: the text; when it holds such a character, with ? for all that is not printable ASCII.
set role farebox_owner;

create function farebox._shown(p_text text)
returns text
language plpgsql stable strict security invoker
as $$
begin
  perform convert_to(p_text, pg_client_encoding());
  return p_text;
exception when untranslatable_character then
  return regexp_replace(p_text, '[^ -~]', '?', 'g');
end
$$;

comment on function farebox._shown(text) is 'Internal: a text in characters that the session''s client_encoding has';

reset role;

-- [copy of db/functions/_parse_batch.sql]
-- Purpose: the elements of a batch as columns, normalised; a value that breaks its format is null. No element is judged here.
-- Parameters: p_batch, an array.  Returns: a row for each element; given_id as it can be shown; transaction_id is trimmed, its length not yet checked;
--   company and route also as given ('' for null), for whoever reads the few UUIDs of a batch once and not for each element.
-- Raises: data exceptions for what json_to_recordset cannot read (see _clean_batch).
-- Without settings of its own and stable, so that it is inlined into the statements that use it.
set role farebox_owner;

create function farebox._parse_batch(p_batch json)
returns table (ordinal int, given_id text, transaction_id text, given_company text, given_route text,
  company_id uuid, route_id uuid, id_may_be_number boolean, passenger_phone text,
  monime_otp text, payment_code text, amount bigint, rate_given boolean, rate numeric)
language sql stable security invoker
as $$
  select
    f.ordinal,
    -- As a subquery it is asked once a batch.
    case when (select pg_client_encoding() in ('UTF8', 'SQL_ASCII')) then f.given_id else farebox._shown(f.given_id) end,
    case when f.is_text then farebox._trimmed(f.given_id) end,
    coalesce(f.company_id, ''),
    coalesce(f.route_id, ''),
    f.company_id::uuid,
    f.route_id::uuid,
    -- 32 digits are a UUID to PostgreSQL, and a JSON number too; so are some with one hyphen. With four they cannot be.
    octet_length(f.company_id) < 36 and f.company_id collate "C" ~ '^[0-9eE+-]+$'
      or octet_length(f.route_id) < 36 and f.route_id collate "C" ~ '^[0-9eE+-]+$',
    farebox._phone(f.passenger_phone),
    farebox._otp(f.monime_otp),
    f.payment_code,
    farebox._amount(f.amount),
    f.commission_rate is not null,
    farebox._number(f.commission_rate, 0, 1, 4)
  from (
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
      company_id text, route_id text, passenger_phone text, monime_transaction_id json, monime_otp json,
      amount text, commission_rate text, payment_code json)) with ordinality
      as x(company_id, route_id, passenger_phone, monime_transaction_id, monime_otp, amount, commission_rate, payment_code, ordinal)
    offset 0  -- keeps the planner from dissolving this step into the next, where each use would compute its columns again
  ) as f
$$;

comment on function farebox._parse_batch(json) is 'Internal: the elements of a batch as columns, normalised';

reset role;

-- [copy of db/functions/_differing.sql]
-- Purpose: what a request differs in from the ticket its payment has, in the contract's order.
-- Parameters: the ticket's fields, then the request's; a malformed field is null and differs.  Returns: the names; empty when it is a replay.
set role farebox_owner;

create function farebox._differing(
  p_route_id uuid, p_phone text, p_code text, p_otp text, p_amount bigint,
  p_new_route_id uuid, p_new_phone text, p_new_code text, p_new_otp text, p_new_amount bigint)
returns text[]
language sql immutable security invoker parallel safe
as $$
  select case
    when p_route_id = p_new_route_id and p_phone = p_new_phone and p_otp = p_new_otp and p_amount = p_new_amount
      and p_code is not distinct from p_new_code
      then '{}'::text[]
    else array_remove(array[
      case when p_route_id is distinct from p_new_route_id then 'route_id' end,
      case when p_phone is distinct from p_new_phone then 'passenger_phone' end,
      case when p_code is distinct from p_new_code then 'payment_code' end,
      case when p_otp is distinct from p_new_otp then 'monime_otp' end,
      case when p_amount is distinct from p_new_amount then 'amount' end], null)
  end
$$;

comment on function farebox._differing(uuid, text, text, text, bigint, uuid, text, text, text, bigint) is
  'Internal: the fields a request differs in from its payment''s ticket, in order';

reset role;

-- [copy of db/functions/_looks_replayed.sql]
-- Purpose: a guess whether a batch has been here before, from its first payment: right or wrong, only the way to the answer differs.
-- Parameters: p_batch.  Returns: whether the first transaction id that stands plainly at its beginning has a ticket.
set role farebox_owner;

create function farebox._looks_replayed(p_batch json)
returns boolean
language plpgsql volatile security invoker
as $$
begin
  return exists (
    select from farebox.tickets as t
    -- The text between the next two quotes after the key.
    where t.monime_transaction_id = split_part(split_part(left(p_batch::text, 1000), '"monime_transaction_id"', 2), '"', 2));
end
$$;

comment on function farebox._looks_replayed(json) is 'Internal: a guess whether a batch has been here before';

reset role;

-- [copy of db/functions/_count_outcomes.sql]
-- Purpose: counts answers that leave no row behind, for metrics_tickets(). What counts is PostgreSQL itself, see tables/tally.sql.
-- Parameters: how many.  Returns: nothing.
set role farebox_owner;

create function farebox._count_outcomes(p_duplicates int, p_conflicts int, p_rejections int)
returns void
language plpgsql volatile security invoker
as $$
begin
  -- Loops, because there are 200 marks. Nothing is fetched: the offset passes over all that is read.
  for v_counted in 0 .. p_duplicates - 1 by 200 loop
    perform from farebox.tally as t where t.duplicates <= p_duplicates - v_counted offset 200;
  end loop;
  for v_counted in 0 .. p_conflicts - 1 by 200 loop
    perform from farebox.tally as t where t.conflicts <= p_conflicts - v_counted offset 200;
  end loop;
  for v_counted in 0 .. p_rejections - 1 by 200 loop
    perform from farebox.tally as t where t.rejections <= p_rejections - v_counted offset 200;
  end loop;
end
$$;

comment on function farebox._count_outcomes(int, int, int) is 'Internal: counts duplicates, conflicts and rejections';

reset role;

-- [copy of db/functions/_answer_replay.sql]
-- Purpose: the short way of a batch that has been here before: every payment has its ticket, so nothing but the answer is left to do.
-- Parameters: p_batch.  Returns: the outcomes in order; null when any element, record or open unapplied payment needs the long way.
-- Raises: data exceptions for what cannot be read as it is.
set role farebox_owner;

create function farebox._answer_replay(p_batch json)
returns farebox.ticket_outcome[]
language plpgsql volatile security invoker
as $$
declare
  v_outcomes farebox.ticket_outcome[];
  v_is_replay boolean;
  v_duplicates int;
  v_conflicts int;
  v_rejections int;
begin
  with compared as (
    select
      e.ordinal, e.given_id, t.id, t.company_id = e.company_id as is_own,
      -- Null for a replay: that is asked of each row several times.
      nullif(farebox._differing(t.route_id, t.passenger_phone, k.code, t.monime_otp, t.amount,
        e.route_id, e.passenger_phone, e.payment_code, e.monime_otp, e.amount), '{}') as differing,
      x.ticket_id is not null as is_recorded,
      u.is_open,
      e.id_may_be_number
    from (select b.* from farebox._parse_batch(p_batch) as b offset 0) as e
    left join lateral (
      select t.* from farebox.tickets as t
      where t.monime_transaction_id = case when e.company_id is not null then e.transaction_id end offset 0) as t on true
    left join lateral (select k.code from farebox.payment_codes as k where k.id = t.payment_code_id offset 0) as k on true
    left join lateral (select x.ticket_id from farebox.transactions as x where x.ticket_id = t.id offset 0) as x on true
    left join lateral (
      -- Not asked for in here: the index of all open payments would seem to serve as well.
      select u.resolved_at is null as is_open from farebox.unapplied_payments as u
      where u.monime_transaction_id = e.transaction_id offset 0) as u on true
    offset 0
  )
  select
    array_agg(row(
      c.ordinal, c.given_id,
      case when not c.is_own then 'rejected' when c.differing is null then 'duplicate' else 'conflict' end,
      case when not c.is_own then 'transaction_id_unavailable' end,
      case when c.is_own and c.differing is null then c.id end,
      case when c.is_own and c.differing is not null then c.id end,
      case when c.is_own then c.differing end,
      c.is_own and c.differing is null)::farebox.ticket_outcome order by c.ordinal),
    bool_and(c.id is not null and c.is_open is not true and c.id_may_be_number is not true
      and (c.is_recorded or not c.is_own or c.differing is not null)),
    (count(*) filter (where c.is_own and c.differing is null))::int,
    (count(*) filter (where c.is_own and c.differing is not null))::int,
    (count(*) filter (where not c.is_own))::int
  into v_outcomes, v_is_replay, v_duplicates, v_conflicts, v_rejections
  from compared as c;

  if v_is_replay then
    perform farebox._count_outcomes(v_duplicates, v_conflicts, v_rejections);
    return v_outcomes;
  end if;
  return null;
end
$$;

comment on function farebox._answer_replay(json) is 'Internal: the outcomes of a batch whose payments all have their tickets, else null';

reset role;

-- [copy of db/functions/_batch_id.sql]
-- Purpose: the id from which the tickets of a batch are numbered. On a shard the router names it (db/router), so that a call that is
--   made again after an answer was lost knows its own tickets.
-- Returns: a time-ordered UUID; its last four digits are replaced by each element's place in the batch.
set role farebox_owner;

create function farebox._batch_id()
returns uuid
language sql volatile security invoker
as $$ select farebox._uuid_v7() $$;

comment on function farebox._batch_id() is 'Internal: the id from which the tickets of a batch are numbered';

reset role;

-- [copy of db/functions/_read_requests.sql]
-- Purpose: the elements of a batch, each with the first reason that speaks against a ticket, by format, company and route (codes: see _look_up_codes).
-- Parameters: p_batch, an array; p_is_clean, it comes from _clean_batch.
-- Returns: the requests in order; whether any that could become a ticket names a code; the payments, with repetitions and nulls.
-- Raises: data exceptions for what cannot be read as it is; the caller cleans the batch then.
set role farebox_owner;

create function farebox._read_requests(p_batch json, p_is_clean boolean,
  out requests farebox._ticket_request[], out has_code boolean, out transaction_ids text[])
language plpgsql volatile security invoker
as $$
declare
  -- One time-ordered id a batch, its last four digits replaced by the ordinal: drawing each by itself would cost as much as
  -- reading the element. What remains random tells batches of the same instant apart.
  v_id_prefix text := left(farebox._batch_id()::text, 32);
  v_has_number boolean;
begin
  with element as materialized (
    select b.ordinal, b.given_id, case when length(b.transaction_id) between 1 and 64 then b.transaction_id end as transaction_id,
      b.given_company, b.given_route, b.id_may_be_number, b.passenger_phone, b.monime_otp, b.payment_code, b.amount,
      b.rate_given, b.rate
    from farebox._parse_batch(p_batch) as b
  ),
  -- A batch names few companies and routes, many times each: they are read and looked up once. A lateral subquery that cannot be
  -- dissolved (`offset 0`) goes by its index, whatever the statistics say.
  place as materialized (
    select d.given_company, d.given_route, d.company_id, d.route_id, c.status as company_status, c.commission_rate,
      c.id is not null as has_company, r.company_id is not null as has_route, r.status as route_status
    from (
      select e.given_company, e.given_route, nullif(e.given_company, '')::uuid as company_id, nullif(e.given_route, '')::uuid as route_id
      from (select distinct e.given_company, e.given_route from element as e) as e
      offset 0) as d
    left join lateral (
      select c.id, c.status, c.commission_rate from farebox.companies as c where c.id = d.company_id offset 0) as c on true
    left join lateral (
      select r.company_id, r.status from farebox.routes as r where r.id = d.route_id offset 0) as r on r.company_id = d.company_id
  )
  select
    coalesce(array_agg(row(
      e.ordinal, e.given_id, e.transaction_id, p.company_id, p.route_id, e.passenger_phone, e.monime_otp, e.payment_code, null, e.amount,
      coalesce(e.rate, p.commission_rate),
      case
        when e.transaction_id is null then 'transaction_id_invalid'
        when p.company_id is null then 'company_id_invalid'
        when p.route_id is null then 'route_id_invalid'
        when e.passenger_phone is null then 'phone_invalid'
        when e.monime_otp is null then 'otp_invalid'
        when e.amount is null then 'amount_invalid'
        when e.rate_given and e.rate is null then 'commission_rate_invalid'
        when not p.has_company then 'company_not_found'
        when p.company_status <> 'active' then 'company_suspended'
        when not p.has_route then 'route_not_found'
        when p.route_status <> 'active' then 'route_inactive'
      end,
      (v_id_prefix || to_hex(4096 + e.ordinal))::uuid)::farebox._ticket_request order by e.ordinal), '{}'),
    coalesce(bool_or(e.payment_code is not null and p.has_route), false),
    array_agg(e.transaction_id),
    bool_or(e.id_may_be_number)
  into requests, has_code, transaction_ids, v_has_number
  from element as e
  left join place as p on p.given_company = e.given_company and p.given_route = e.given_route;

  -- A number is no UUID: only the slow way of reading can tell.
  if v_has_number and not p_is_clean then
    raise exception using errcode = 'data_exception', message = 'a UUID that may have been a number';
  end if;
end
$$;

comment on function farebox._read_requests(json, boolean) is
  'Internal: the elements of a batch, each with the first reason against a ticket by format, company and route';

reset role;

-- [copy of db/functions/_look_up_codes.sql]
-- Purpose: finds the payment codes that requests name, and judges them as they stand.
-- Parameters: p_requests in order; p_is_new, none of their payments had a ticket a moment ago; p_is_again, a first attempt was taken
--   back: then payments without a code are looked up too, because it must be known how many tickets there will be; p_now.
-- Returns: the requests, with the code or the reason why it cannot be charged; reason `known`: the payment has its ticket already.
--   The codes and their uses, by id, if every candidate becomes a ticket; whether that is more than is left of one: see _allocate_codes.
set role farebox_owner;

create function farebox._look_up_codes(p_requests farebox._ticket_request[], p_is_new boolean, p_is_again boolean, p_now timestamptz,
  out requests farebox._ticket_request[], out codes uuid[], out uses int[], out runs_out boolean)
language plpgsql volatile security invoker
as $$
begin
  -- A batch names few codes, many times each: they are looked up once.
  with code as materialized (
    select d.payment_code, k.*
    from (select distinct r.payment_code from unnest(p_requests) as r where r.reason is null and r.payment_code is not null) as d
    cross join lateral (
      select k.id, k.company_id, k.route_id, k.total_tickets - k.used_tickets as uses_left,
        farebox._code_refusal(k.status, k.used_tickets, k.total_tickets, k.expires_at, p_now) as refusal
      from farebox.payment_codes as k where k.code = d.payment_code offset 0) as k
  ),
  request as materialized (
    select
      r.ordinal, r.given_id, r.transaction_id, r.company_id, r.route_id, r.passenger_phone, r.monime_otp, r.payment_code,
      k.id as code_id, k.uses_left, r.amount, r.commission_rate, r.ticket_id,
      case
        when r.reason is not null then r.reason
        when not p_is_new and (p_is_again or r.payment_code is not null)
          and (select t.id from farebox.tickets as t where t.monime_transaction_id = r.transaction_id) is not null then 'known'
        when r.payment_code is null then null
        when k.id is null then 'code_not_found'
        when k.route_id <> r.route_id then 'code_route_mismatch'
        else k.refusal
      end as reason
    from unnest(p_requests) as r
    left join code as k on k.payment_code = r.payment_code and k.company_id = r.company_id
  )
  select judged.requests, demand.codes, demand.uses, coalesce(demand.runs_out, false)
  into requests, codes, uses, runs_out
  from (
    select
      array_agg(row(
        r.ordinal, r.given_id, r.transaction_id, r.company_id, r.route_id, r.passenger_phone, r.monime_otp, r.payment_code, r.code_id,
        r.amount, r.commission_rate, r.reason, r.ticket_id)::farebox._ticket_request order by r.ordinal) as requests
    from request as r
  ) as judged
  cross join (
    -- Repetitions of a payment count each: they would only lead to the careful way for nothing.
    select
      array_agg(d.code_id order by d.code_id) as codes, array_agg(d.uses order by d.code_id) as uses,
      bool_or(d.uses > d.uses_left) as runs_out
    from (
      select r.code_id, count(*)::int as uses, min(r.uses_left) as uses_left
      from request as r
      where r.reason is null and r.code_id is not null
      group by r.code_id
    ) as d
  ) as demand;
end
$$;

comment on function farebox._look_up_codes(farebox._ticket_request[], boolean, boolean, timestamptz) is
  'Internal: the payment codes that requests name, each judged as it stands';

reset role;

-- [copy of db/functions/_own_requests.sql]
-- Purpose: the place where a shard (db/router) refuses payments that another shard's company has bought with. Elsewhere nothing is refused.
-- Parameters: p_requests.  Returns: the requests.
-- Without settings of its own, so that it is inlined and costs nothing.
set role farebox_owner;

create function farebox._own_requests(p_requests farebox._ticket_request[])
returns farebox._ticket_request[]
language sql volatile security invoker
as $$ select p_requests $$;

comment on function farebox._own_requests(farebox._ticket_request[]) is 'Internal: where a shard refuses what is another shard''s';

reset role;

-- [copy of db/functions/_allocate_codes.sql]
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

-- [copy of db/functions/_insert_tickets.sql]
-- Purpose: writes the tickets, the first candidate of each payment.
-- Parameters: p_requests; those without a reason are candidates. p_now, their time. p_is_new, none of their payments had a ticket a moment ago.
-- Returns: how many were written; the others of the candidates' payments were lost to callers who have committed.
-- Locks and writes: tickets in the order of the payment, so that callers wait in one direction only.
set role farebox_owner;

create function farebox._insert_tickets(p_requests farebox._ticket_request[], p_now timestamptz, p_is_new boolean)
returns int
language plpgsql volatile security invoker
as $$
declare
  v_created int;
begin
  -- ON CONFLICT looks each payment up again, announces each row, and writes a second time that it stands: a seventh of the
  -- whole call. It is not needed where nobody else is writing one of these payments in this very moment.
  if p_is_new then
    begin
      insert into farebox.tickets (id, company_id, route_id, payment_code_id, amount, created_at, commission_rate,
        monime_transaction_id, passenger_phone, monime_otp)
      select distinct on (r.transaction_id collate "C")  -- the order of the index, and fast under any collation
        r.ticket_id, r.company_id, r.route_id, r.payment_code_id, r.amount, p_now, r.commission_rate,
        r.transaction_id, r.passenger_phone, r.monime_otp
      from unnest(p_requests) as r
      where r.reason is null
      order by r.transaction_id collate "C", r.ordinal;
      get diagnostics v_created = row_count;
      return v_created;
    exception when unique_violation then
      null;  -- somebody was: all is taken back, and the same rows are written with care
    end;
  end if;

  insert into farebox.tickets (id, company_id, route_id, payment_code_id, amount, created_at, commission_rate,
    monime_transaction_id, passenger_phone, monime_otp)
  select distinct on (r.transaction_id collate "C")
    r.ticket_id, r.company_id, r.route_id, r.payment_code_id, r.amount, p_now, r.commission_rate,
    r.transaction_id, r.passenger_phone, r.monime_otp
  from unnest(p_requests) as r
  where r.reason is null
  order by r.transaction_id collate "C", r.ordinal
  on conflict (monime_transaction_id) do nothing;
  get diagnostics v_created = row_count;
  return v_created;
end
$$;

comment on function farebox._insert_tickets(farebox._ticket_request[], timestamptz, boolean) is 'Internal: writes tickets';

reset role;

-- [copy of db/functions/_count_uses.sql]
-- Purpose: the uses that tickets just written make of their codes, where not every candidate became one: repetitions, and what was lost to
--   another caller.
-- Parameters: p_requests, as their tickets were written.
-- Returns: the codes, by id, the uses of each, and whether somebody was told that it is exhausted; nulls when there is nothing to charge.
set role farebox_owner;

create function farebox._count_uses(p_requests farebox._ticket_request[], out codes uuid[], out uses int[], out is_spent boolean[])
language plpgsql volatile security invoker
as $$
begin
  select
    array_agg(c.payment_code_id order by c.payment_code_id), array_agg(c.uses order by c.payment_code_id),
    array_agg(c.is_spent order by c.payment_code_id)
  into codes, uses, is_spent
  from (
    select r.payment_code_id, count(*) filter (where r.reason is null)::int as uses, bool_or(r.reason = 'code_exhausted') as is_spent
    from unnest(p_requests) as r
    where r.payment_code_id is not null and (r.reason = 'code_exhausted' or r.reason is null
      and (select t.id from farebox.tickets as t where t.id = r.ticket_id) is not null)
    group by r.payment_code_id
  ) as c
  where c.uses > 0;
end
$$;

comment on function farebox._count_uses(farebox._ticket_request[]) is
  'Internal: the uses that tickets just written make of their payment codes';

reset role;

-- [copy of db/functions/_charge_codes.sql]
-- Purpose: counts the tickets just written on their codes; the use that reaches total_tickets sets `expired` in the same update.
-- Parameters: p_codes, by id (null: none), and p_uses of each; p_is_spent, somebody was told that it is exhausted: then these must be
--   its last uses (null: nobody was).
-- Returns: false when a code, now that it is locked, is not as it was when its uses were given out: then all must be taken back.
-- Locks and writes: payment_codes (by id), one update a code.
set role farebox_owner;

create function farebox._charge_codes(p_codes uuid[], p_uses int[], p_is_spent boolean[])
returns boolean
language plpgsql volatile security invoker
as $$
declare
  v_now timestamptz;
  v_charged int;
begin
  if p_codes is null then
    return true;
  end if;

  perform from farebox.payment_codes as k where k.id = any (p_codes) order by k.id for no key update;
  v_now := farebox._now();
  -- No join, whose plan would hang on statistics: the array of codes is in order, and width_bucket finds a code's place in it.
  update farebox.payment_codes as k
  set
    used_tickets = k.used_tickets + p_uses[width_bucket(k.id, p_codes)],
    status = case when k.used_tickets + p_uses[width_bucket(k.id, p_codes)] = k.total_tickets then 'expired' else k.status end
  where k.id = any (p_codes)
    and farebox._code_refusal(k.status, k.used_tickets, k.total_tickets, k.expires_at, v_now) is null
    and case when p_is_spent[width_bucket(k.id, p_codes)]
      then p_uses[width_bucket(k.id, p_codes)] = k.total_tickets - k.used_tickets
      else p_uses[width_bucket(k.id, p_codes)] <= k.total_tickets - k.used_tickets end;
  get diagnostics v_charged = row_count;
  return v_charged = cardinality(p_codes);
end
$$;

comment on function farebox._charge_codes(uuid[], int[], boolean[]) is
  'Internal: counts the tickets just written on their payment codes, if these are still as they were';

reset role;

-- [copy of db/functions/_judge_requests.sql]
-- Purpose: the outcome of each element, once the tickets are written: created, or what the payment's ticket says.
-- Parameters: p_requests, in order; p_created, how many tickets were written.
-- Returns: the outcomes in order; transaction_recorded is left false for _settle_records.  Raises: 40001 when a ticket that was there has gone.
set role farebox_owner;

create function farebox._judge_requests(p_requests farebox._ticket_request[], p_created int)
returns farebox.ticket_outcome[]
language plpgsql volatile security invoker
as $$
declare
  v_outcomes farebox.ticket_outcome[];
  v_vanished boolean;
  v_duplicates int;
  v_conflicts int;
  v_rejections int;
  -- Every candidate became a ticket, so none of them needs a look-up.
  v_all_created boolean := p_created = (select count(*) from unnest(p_requests) as r where r.reason is null);
begin
  with compared as (
    select
      r.ordinal, r.given_id, r.reason, r.ticket_id, t.id as found_id,
      t.company_id = r.company_id as is_own,
      farebox._differing(t.route_id, t.passenger_phone, k.code, t.monime_otp, t.amount,
        r.route_id, r.passenger_phone, r.payment_code, r.monime_otp, r.amount) as differing,
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
  ),
  judged as (
    select
      c.*,
      case
        when c.reason is null and (v_all_created or c.found_id = c.ticket_id) then 'created'
        when c.found_id is null or c.ordinal < c.created_by or not c.is_own then 'rejected'
        when c.differing = '{}' then 'duplicate'
        else 'conflict'
      end as outcome
    from compared as c
    offset 0
  )
  select
    array_agg(row(
      j.ordinal,
      j.given_id,
      j.outcome,
      case when j.outcome = 'rejected' then
        case when j.found_id is null or j.ordinal < j.created_by then j.reason else 'transaction_id_unavailable' end end,
      case j.outcome when 'created' then j.ticket_id when 'duplicate' then j.found_id end,
      case j.outcome when 'conflict' then j.found_id end,
      case j.outcome when 'conflict' then j.differing end,
      false)::farebox.ticket_outcome order by j.ordinal),
    coalesce(bool_or(j.found_id is null and (j.reason = 'known' or j.reason is null and not v_all_created)), false),
    (count(*) filter (where j.outcome = 'duplicate'))::int,
    (count(*) filter (where j.outcome = 'conflict'))::int,
    (count(*) filter (where j.outcome = 'rejected'))::int
  into v_outcomes, v_vanished, v_duplicates, v_conflicts, v_rejections
  from judged as j;

  if v_vanished then
    raise exception using errcode = 'serialization_failure',
      message = 'a ticket disappeared while its payment was being looked up',
      hint = 'retry the call';
  end if;
  perform farebox._count_outcomes(v_duplicates, v_conflicts, v_rejections);
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
-- Parameters: p_tickets, of which those without a reason are tickets without a record; p_now.
-- Returns: how many this call wrote; the tickets whose record could not be written.
-- Raises: only what the caller should retry as a whole (class 40).  Locks and writes: transactions.
set role farebox_owner;

create function farebox._record_transactions(
  p_tickets farebox._ticket_request[], p_now timestamptz, out written int, out missing uuid[])
language plpgsql volatile security invoker
as $$
declare
  v_ticket farebox._ticket_request;
  v_count int;
begin
  missing := '{}';
  begin
    insert into farebox.transactions (ticket_id, company_id, amount, commission, net_amount, created_at)
    select t.ticket_id, t.company_id, t.amount, c.commission, t.amount - c.commission, p_now
    from unnest(p_tickets) as t
    cross join lateral (select farebox._commission(t.amount, t.commission_rate) as commission) as c
    where t.reason is null;
    get diagnostics written = row_count;
    if written < cardinality(p_tickets) then  -- a trigger or a rule may leave rows out without a word
      missing := array(select t.ticket_id from unnest(p_tickets) as t where t.reason is null
        and not exists (select from farebox.transactions as x where x.ticket_id = t.ticket_id));
    end if;
    return;
  exception
    when transaction_rollback then
      raise;
    when lock_not_available then  -- the caller will not wait for the table: not a hundred times either
      written := 0;
      missing := array(select t.ticket_id from unnest(p_tickets) as t where t.reason is null);
      return;
    when others or assert_failure then
      written := 0;
  end;

  -- A loop, because each record needs an exception handler of its own. In the order of the keys: two repairs may meet.
  for v_ticket in select t.* from unnest(p_tickets) as t where t.reason is null order by t.ticket_id loop
    begin
      insert into farebox.transactions (ticket_id, company_id, amount, commission, net_amount, created_at)
      select v_ticket.ticket_id, v_ticket.company_id, v_ticket.amount, c.commission, v_ticket.amount - c.commission, p_now
      from (select farebox._commission(v_ticket.amount, v_ticket.commission_rate) as commission) as c
      on conflict (ticket_id) do nothing;
      get diagnostics v_count = row_count;
      written := written + v_count;
      if v_count = 0 and not exists (select from farebox.transactions as x where x.ticket_id = v_ticket.ticket_id) then
        missing := missing || v_ticket.ticket_id;
      end if;
    exception
      when transaction_rollback then
        raise;
      when others or assert_failure then
        missing := missing || v_ticket.ticket_id;
        raise warning using
          message = format('the transaction record of ticket %s cannot be written: %s', v_ticket.ticket_id, sqlerrm),
          hint = 'the ticket stands; farebox.record_missing_transactions() writes the record once the cause is gone';
    end;
  end loop;
end
$$;

comment on function farebox._record_transactions(farebox._ticket_request[], timestamptz) is
  'Internal: writes the transaction records of tickets, each on its own when not all together';

reset role;

-- [copy of db/functions/_settle_records.sql]
-- Purpose: the transaction records of the tickets in a batch's outcomes: writes those that are missing, of new tickets and at a replay.
-- Parameters: p_outcomes, in order; p_now.  Returns: the outcomes with transaction_recorded as it stands.
-- Raises: only what the caller should retry as a whole (class 40).  Locks and writes: transactions.
set role farebox_owner;

create function farebox._settle_records(p_outcomes farebox.ticket_outcome[], p_now timestamptz)
returns farebox.ticket_outcome[]
language plpgsql volatile security invoker
as $$
declare
  v_tickets farebox._ticket_request[];
  v_missing uuid[];
  v_recorded record;
begin
  begin
    select array_agg(farebox._record_of(t.*) order by t.id)
    into v_tickets
    from (select distinct o.ticket_id from unnest(p_outcomes) as o where o.ticket_id is not null) as o
    cross join lateral (select t.* from farebox.tickets as t where t.id = o.ticket_id offset 0) as t
    left join lateral (select x.ticket_id from farebox.transactions as x where x.ticket_id = o.ticket_id offset 0) as x on true
    where x.ticket_id is null;
    v_recorded := farebox._record_transactions(coalesce(v_tickets, '{}'), p_now);
    v_missing := v_recorded.missing;
  exception
    when transaction_rollback then
      raise;
    when others or assert_failure then  -- the records cannot even be read now: the tickets stand all the same
      v_missing := array(select o.ticket_id from unnest(p_outcomes) as o where o.ticket_id is not null);
  end;

  return (
    select array_agg(row(o.ordinal, o.monime_transaction_id, o.outcome, o.reason, o.ticket_id, o.existing_ticket_id, o.differing,
      o.ticket_id is not null and o.ticket_id <> all (v_missing))::farebox.ticket_outcome order by o.ordinal)
    from unnest(p_outcomes) as o
  );
end
$$;

comment on function farebox._settle_records(farebox.ticket_outcome[], timestamptz) is
  'Internal: writes the transaction records that the tickets of a batch lack';

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
      -- A payment that two companies claim belongs to neither: neither may read the other's request.
      case when count(distinct coalesce(r.company_id::text, '')) = 1 then (array_agg(r.company_id))[1] end as company_id,
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
    p.transaction_id, case when t.company_id is distinct from p.company_id and t.id is not null then null else p.company_id end, p.requests[1], p.reason, p_now, p_now,
    p.attempts, p.requests[2:10], case when t.id is not null then p_now end, t.id
  from payment as p
  left join lateral (
    select t.id, t.company_id from farebox.tickets as t where t.monime_transaction_id = p.transaction_id offset 0) as t on true
  where p.reason is not null or t.id is not null
  order by p.transaction_id
  on conflict (monime_transaction_id) do update set
    company_id = case when u.company_id = excluded.company_id then u.company_id end,
    request = case when excluded.reason is null then u.request else excluded.request end,
    reason = coalesce(excluded.reason, u.reason),
    -- Never back: who comes last may have begun first.
    last_seen_at = case when excluded.reason is null then u.last_seen_at else greatest(u.last_seen_at, excluded.last_seen_at) end,
    attempts = u.attempts + case when excluded.reason is null then 0 else excluded.attempts end,
    earlier_requests = case when excluded.reason is null then u.earlier_requests else array(
      select (array_agg(e.request order by e.place))[1]
      from unnest(excluded.earlier_requests || u.request || u.earlier_requests) with ordinality as e(request, place)
      where e.request::text <> excluded.request::text
      group by e.request::text
      order by min(e.place)
      limit 9) end,
    resolved_at = coalesce(u.resolved_at, case when excluded.ticket_id is not null then greatest(u.last_seen_at, excluded.resolved_at) end),
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

-- [copy of db/functions/create_ticket.sql]
-- Purpose: create_tickets for a single payment.
-- Parameters: p_ticket, one request.  Returns: its one outcome.  Raises, locks and writes: as create_tickets.
set role farebox_owner;

create function farebox.create_ticket(p_ticket json)
returns setof farebox.ticket_outcome
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
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
set standard_conforming_strings = on
as $$
declare
  v_tickets farebox._ticket_request[];
  v_recorded record;
  v_written int := 0;
  v_after uuid := '00000000-0000-0000-0000-000000000000'::uuid;
begin
  perform farebox._check_limit(p_limit, 10000);

  -- A loop, because records that cannot be written must not stand in the way of those behind them.
  loop
    select array_agg(farebox._record_of(t.*) order by t.id), max(t.id::text collate "C")::uuid
    into v_tickets, v_after
    from (
      select t.*
      from farebox.tickets as t
      where t.id > v_after and not exists (select from farebox.transactions as x where x.ticket_id = t.id)
      order by t.id
      limit p_limit - v_written
      for no key update skip locked
    ) as t;
    exit when v_tickets is null;
    v_recorded := farebox._record_transactions(v_tickets, farebox._now());
    v_written := v_written + v_recorded.written;
    exit when v_written >= p_limit;
  end loop;
  return v_written;
end
$$;

comment on function farebox.record_missing_transactions(int) is
  'Writes transaction records that are missing, exactly once each; how many it wrote';

reset role;

-- [copy of db/functions/blameless_errors.sql]
-- Purpose: which errors are no request's fault, whatever was in the batch: the one place where this is said, for whoever processes.
-- Returns: how their SQLSTATEs begin. Others that process_ticket_queue raises may be a request's, such as memory (53200) or time (57014).
set role farebox_owner;

create function farebox.blameless_errors()
returns setof text
language sql immutable security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$ values ('25'), ('40'), ('42'), ('53100'), ('53300'), ('55') $$;

comment on function farebox.blameless_errors() is 'How the SQLSTATEs begin of errors that are no queued request''s fault';

reset role;

-- [copy of db/functions/_is_blameless.sql]
-- Purpose: whether an error is no request's fault, so that it is raised instead of blamed on one.
-- Parameters: p_sqlstate.  Returns: whether it begins as blameless_errors() says.
set role farebox_owner;

create function farebox._is_blameless(p_sqlstate text)
returns boolean
language sql immutable security invoker
as $$ select exists (select from farebox.blameless_errors() as b(beginning) where starts_with(p_sqlstate, b.beginning)) $$;

comment on function farebox._is_blameless(text) is 'Internal: whether an error is no queued request''s fault';

reset role;

-- [copy of db/functions/apply_unapplied_payments.sql]
-- Purpose: tries kept payments again, those first that were tried longest ago.
-- Parameters: p_limit, 1 to 10,000; p_reason, only payments rejected for it (null = any).  Returns: their outcomes, as create_tickets; a
--   payment that makes create_tickets raise is rejected with error_ and the SQLSTATE, and the others have their turn all the same.
-- Raises: TK003; as create_tickets what is no payment's fault (blameless_errors).  Locks and writes: as create_tickets, which also
--   resolves the rows. No row is locked before, or the one order of locks would be broken; two callers may try the same payment at once.
set role farebox_owner;

create function farebox.apply_unapplied_payments(p_limit int default 1000, p_reason text default null)
returns setof farebox.ticket_outcome
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
-- As create_tickets: the plans must not hang on statistics.
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
declare
  v_payments text[];
  v_requests json[];
  v_reasons text[];  -- of each payment that is poison
  v_good int[];
begin
  perform farebox._check_limit(p_limit, 10000);

  select array_agg(u.monime_transaction_id order by u.last_seen_at, u.monime_transaction_id),
    array_agg(u.request order by u.last_seen_at, u.monime_transaction_id)
  into v_payments, v_requests
  from (
    select u.request, u.last_seen_at, u.monime_transaction_id
    from farebox.unapplied_payments as u
    where u.resolved_at is null and (p_reason is null or u.reason = p_reason)
    order by u.last_seen_at, u.monime_transaction_id
    limit p_limit
  ) as u;
  if v_requests is null then
    return;
  end if;

  begin
    return query select o.* from farebox.create_tickets(array_to_json(v_requests)) as o;
    return;
  exception when others then
    if farebox._is_blameless(sqlstate) then
      raise;
    end if;
  end;

  -- Somebody among them is poison, such as a payment that the queue gave up. A loop, because each is tried by itself to see who, and taken
  -- back, so that in the end the others take their locks in the one order, all together. (Who waits for one that is taken back goes on
  -- waiting until we have ended, and may stand before us in a code's line: only here one call may deadlock with another, 40P01.)
  v_reasons := array_fill(null::text, array[cardinality(v_requests)]);
  for v_ordinal in 1 .. cardinality(v_requests) loop
    begin
      perform from farebox.create_tickets(json_build_array(v_requests[v_ordinal]));
      raise exception using errcode = 'TK000', message = 'it is no poison';
    exception
      when sqlstate 'TK000' then
        null;
      when others then
        if farebox._is_blameless(sqlstate) then
          raise;
        end if;
        v_reasons[v_ordinal] := 'error_' || sqlstate;
    end;
  end loop;

  v_good := array(select r.ordinal from unnest(v_reasons) with ordinality as r(reason, ordinal) where r.reason is null order by r.ordinal);
  return query
    select v_good[o.ordinal], o.monime_transaction_id, o.outcome, o.reason, o.ticket_id, o.existing_ticket_id, o.differing,
      o.transaction_recorded
    from farebox.create_tickets(array_to_json(array(select v_requests[g.ordinal] from unnest(v_good) with ordinality as g(ordinal, place)
      order by g.place))) as o
    union all
    select p.ordinal::int, p.transaction_id, 'rejected', p.reason, null, null, null, false
    from unnest(v_payments, v_reasons) with ordinality as p(transaction_id, reason, ordinal)
    where p.reason is not null
    order by 1;
  -- To the end of the line; whoever has one of them in hand does the same.
  with poison as (
    select u.monime_transaction_id, p.reason
    from unnest(v_payments, v_reasons) as p(transaction_id, reason)
    join farebox.unapplied_payments as u on u.monime_transaction_id = p.transaction_id
    where p.reason is not null and u.resolved_at is null
    for update of u skip locked
  )
  update farebox.unapplied_payments as u
  set reason = p.reason, attempts = u.attempts + 1, last_seen_at = farebox._now()
  from poison as p
  where u.monime_transaction_id = p.monime_transaction_id;
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
set standard_conforming_strings = on
-- As create_tickets: the plans must not hang on statistics.
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
set jit = off
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
set standard_conforming_strings = on
-- As create_tickets: the plans must not hang on statistics.
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
set jit = off
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
        when not exists (select from farebox.companies as c where c.id = v_element.company_id for key share) then 'company_not_found'
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

-- [copy of db/functions/_lock_codes.sql]
-- Purpose: locks the issued codes that a catalog batch names, in the one order that create_tickets locks them in.
-- Parameters: p_batch, an array of objects with a code.  Returns: nothing.  Locks: payment_codes (by id).
set role farebox_owner;

create function farebox._lock_codes(p_batch json)
returns void
language plpgsql volatile security invoker
as $$
declare
  -- In two steps: asked for by code and wanted by id, the planner might read all codes by id instead of a few by code.
  v_codes uuid[] := array(
    select k.id
    from (select distinct farebox._jsonb_text(farebox._json_object(e.value), 'code') as code from json_array_elements(p_batch) as e) as d
    cross join lateral (select k.id from farebox.payment_codes as k where k.code = d.code offset 0) as k);
begin
  perform from farebox.payment_codes as k where k.id = any (v_codes) order by k.id for no key update;
end
$$;

comment on function farebox._lock_codes(json) is 'Internal: locks the payment codes that a catalog batch names, by id';

reset role;

-- [copy of db/functions/issue_payment_codes.sql]
-- Purpose: issues payment codes, and changes the limit or the end of issued ones. The code itself names the row, so a retry is harmless.
-- Parameters: p_batch of {id?, company_id, route_id?, code, total_tickets, expires_at?}; on an issued code absent keys keep what is stored.
-- Returns: created, updated, unchanged or rejected for each.  Raises: TK001, TK002.
-- Locks and writes: payment_codes (by id), their companies and routes (shared).
set role farebox_owner;

create function farebox.issue_payment_codes(p_batch json)
returns setof farebox.catalog_outcome
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
-- As create_tickets: the plans must not hang on statistics.
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
set jit = off
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
  perform farebox._lock_codes(p_batch);

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
        then farebox._number(v_element.object ->> 'total_tickets', 1, 2147483647, 0)::int else v_old.total_tickets end;
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
        when not exists (select from farebox.companies as c where c.id = v_element.company_id for key share) then 'company_not_found'
        when v_new.route_id is not null and not exists (
          select from farebox.routes as r where r.id = v_new.route_id and r.company_id = v_element.company_id for key share) then 'route_not_found'
        when v_old.company_id <> v_element.company_id or v_element.id <> v_old.id
          or v_old.id is not null and v_new.route_id is distinct from v_old.route_id then 'code_taken'
        when v_new.total_tickets < v_old.used_tickets then 'total_below_used'
        when v_old.status = 'cancelled' and v_new is distinct from v_old then 'code_cancelled'
      end;
      exit when v_reason is not null;

      if v_old.id is not null then
        v_outcome := case when v_new is distinct from v_old then 'updated' else 'unchanged' end;
        if v_outcome = 'updated' then
          -- The status follows: see _follow_code_terms.
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
set standard_conforming_strings = on
-- As create_tickets: the plans must not hang on statistics.
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
begin
  perform farebox._batch_length(p_batch);

  perform farebox._lock_codes(p_batch);

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
set standard_conforming_strings = on
-- As create_tickets: the plans must not hang on statistics.
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
set jit = off
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
set standard_conforming_strings = on
-- As create_tickets: the plans must not hang on statistics.
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
set jit = off
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
set standard_conforming_strings = on
-- As create_tickets: the plans must not hang on statistics.
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
set jit = off
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
set standard_conforming_strings = on
-- As create_tickets: the plans must not hang on statistics.
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
set jit = off
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
set standard_conforming_strings = on
-- As create_tickets: the plans must not hang on statistics.
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
set jit = off
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
set standard_conforming_strings = on
-- As create_tickets: the plans must not hang on statistics.
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
set jit = off
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
set standard_conforming_strings = on
-- As create_tickets: the plans must not hang on statistics.
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
set jit = off
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
set standard_conforming_strings = on
-- As create_tickets: the plans must not hang on statistics.
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
set jit = off
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
set standard_conforming_strings = on
-- The same index on an empty database as on a full one.
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
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
set standard_conforming_strings = on
-- The same index on an empty database as on a full one.
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
begin
  perform farebox._check_limit(p_limit, 1000);
  return query
    select
      t.id, t.company_id, t.route_id, t.passenger_phone, t.monime_transaction_id, t.monime_otp, t.payment_code_id,
      (select k.code from farebox.payment_codes as k where k.id = t.payment_code_id), t.amount, t.commission_rate, t.status, t.created_at
    -- A passenger has few tickets, so the phone alone finds them: asked for the company too, a planner with wrong statistics
    -- might read all of the company's tickets instead.
    from (select t.* from farebox.tickets as t where t.passenger_phone = farebox._phone(p_phone) offset 0) as t
    where t.company_id = p_company_id
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
set standard_conforming_strings = on
-- The same index on an empty database as on a full one: with the status a parameter of a generic plan, nothing can prove that
-- the partial index of all companies' pending tickets would do, which a small company would have to read through.
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
declare
  v_status text := 'pending';
begin
  perform farebox._check_limit(p_limit, 1000);
  return query
    select
      t.id, t.company_id, t.route_id, t.passenger_phone, t.monime_transaction_id, t.monime_otp, t.payment_code_id,
      (select k.code from farebox.payment_codes as k where k.id = t.payment_code_id), t.amount, t.commission_rate, t.status, t.created_at
    from farebox.tickets as t
    where t.company_id = p_company_id and t.status = v_status
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

-- [copy of db/functions/verify.sql]
-- Purpose: proves the whole database: one row for each broken invariant, none when all is well. Safe under load: one statement, one snapshot.
-- Returns: the invariant's name, the row it was found on, what is wrong there.
set role farebox_owner;

create function farebox.verify()
returns setof farebox.violation
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
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

-- [copy of db/functions/_queued_payment.sql]
-- Purpose: which company and which payment a stored request names, whatever else is wrong with it.
-- Parameters: p_request, any JSON.  Returns: the company, null when it is no UUID; the payment, null when it is no well-formed id.
set role farebox_owner;

create function farebox._queued_payment(p_request json, out company_id uuid, out transaction_id text)
language plpgsql stable security invoker parallel safe
as $$
declare
  v_batch json := json_build_array(p_request);
begin
  begin
    select x.company_id, case when json_typeof(x.monime_transaction_id) = 'string' then x.monime_transaction_id #>> '{}' end
    into company_id, transaction_id
    from json_to_recordset(v_batch) as x(company_id uuid, monime_transaction_id json);
  exception when data_exception or statement_too_complex then
    v_batch := farebox._clean_batch(case when sqlstate = '54001' then farebox._shallow_json(v_batch) else v_batch end);
    select x.company_id, case when json_typeof(x.monime_transaction_id) = 'string' then x.monime_transaction_id #>> '{}' end
    into company_id, transaction_id
    from json_to_recordset(v_batch) as x(company_id uuid, monime_transaction_id json);
  end;
  transaction_id := farebox._trimmed(transaction_id);
  if length(transaction_id) not between 1 and 64 then
    transaction_id := null;
  end if;
end
$$;

comment on function farebox._queued_payment(json) is 'Internal: the company and the payment that a stored request names';

reset role;

-- [copy of db/functions/_wake_workers.sql]
-- Purpose: wakes the workers that sleep, and nobody when none does.
-- The bell is a sequence, seen and changed by all sessions at once: the first producer after a worker lay down notifies, at its
--   commit, and no other does, or all producers' commits would queue for the one lock of NOTIFY. If that producer rolls back,
--   workers look for themselves within their flush interval.  Writes: ticket_queue_bell; NOTIFY farebox_queue, without payload.
set role farebox_owner;

create function farebox._wake_workers()
returns void
language plpgsql volatile security invoker
as $$
begin
  if pg_sequence_last_value('farebox.ticket_queue_bell') = 1 then
    perform setval('farebox.ticket_queue_bell', 0);
    perform pg_notify('farebox_queue', '');
  end if;
end
$$;

comment on function farebox._wake_workers() is 'Internal: wakes sleeping workers by NOTIFY, if there are any';

reset role;

-- [copy of db/functions/_backoff.sql]
-- Purpose: how long a request rests after a failed attempt.
-- Parameters: p_attempts, how many have failed.  Returns: 100 ms x 2^(n-1), and up to half as much again by chance, so that what
--   failed together does not come back together.
set role farebox_owner;

create function farebox._backoff(p_attempts int)
returns interval
language sql volatile security invoker parallel safe
as $$ select interval '100 ms' * 2 ^ (p_attempts - 1) * (1 + random() / 2) $$;

comment on function farebox._backoff(int) is 'How long a request rests after so many failed attempts';

reset role;

-- [copy of db/functions/_is_given_up.sql]
-- Purpose: tells payments the queue gave up from those that were rejected by a rule.
-- Parameters: p_reason, of an unapplied payment.  Returns: whether it is one of the queue's.
set role farebox_owner;

create function farebox._is_given_up(p_reason text)
returns boolean
language sql immutable security invoker parallel safe
as $$ select p_reason = 'unfinished' or starts_with(p_reason, 'error_') $$;

comment on function farebox._is_given_up(text) is 'Internal: whether the queue gave the payment up for this reason';

reset role;

-- [copy of db/functions/_read_queue_keys.sql]
-- Purpose: reads the keys by which operators name requests.
-- Parameters: p_keys.  Returns: the ids of those that read queue:<id>, and the payments of those that read payment:<id>.
-- Raises: TK002 more than 10,000, TK003 null or neither form.
set role farebox_owner;

create function farebox._read_queue_keys(p_keys text[], out queue_ids bigint[], out transaction_ids text[])
language plpgsql immutable security invoker parallel safe
as $$
begin
  if cardinality(p_keys) > 10000 then
    raise exception using errcode = 'TK002',
      message = format('%s keys at once', cardinality(p_keys)),
      hint = 'pass 10,000 or fewer';
  end if;
  if p_keys is null or exists (select from unnest(p_keys) as k(key) where (k.key ~ '^(queue:[1-9][0-9]{0,17}|payment:.*)$') is not true) then
    raise exception using errcode = 'TK003',
      message = 'a key is neither queue:<id> nor payment:<id>',
      hint = 'pass keys as farebox.list_dead_requests() shows them';
  end if;
  queue_ids := array(select substring(k.key from 7)::bigint from unnest(p_keys) as k(key) where starts_with(k.key, 'queue:'));
  transaction_ids := array(select substring(k.key from 9) from unnest(p_keys) as k(key) where starts_with(k.key, 'payment:'));
end
$$;

comment on function farebox._read_queue_keys(text[]) is 'Internal: queue ids and payments among the keys of requests';

reset role;

-- [copy of db/functions/enqueue_tickets.sql]
-- Purpose: stores requests durably, to become tickets soon; what is wrong with one comes out when it is processed.
-- Parameters: p_batch, an array of at most 10,000 requests.  Returns: for each, in order, its queue id. Once the transaction has
--   committed, none is ever lost; stored twice, it still buys one ticket.
-- Raises: TK001, TK002.  Locks and writes: ticket_queue_pauses (shared, if paused), an advisory lock (see _hold_queue_floor),
--   ticket_queue (new rows). Producers wait for nobody.
set role farebox_owner;

create function farebox.enqueue_tickets(p_batch json)
returns table (ordinal int, queue_id bigint)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
-- As create_tickets: the plans must not hang on statistics, least of all those of a table that is empty now and long then.
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
declare
  c_nobody constant uuid := uuid '00000000-0000-0000-0000-000000000000';
  v_batch json := p_batch;
  v_requests json[];
  v_companies uuid[];
  v_length int;
  v_paused uuid[];
  v_ids bigint[];
  v_floor bigint;
  v_now timestamptz := farebox._now();
begin
  begin
    -- Usually the elements are counted once they are read: counting them first is one more pass over the whole text.
    if v_batch is null or pg_column_size(v_batch) > 1000000 then
      perform farebox._batch_length(v_batch);
    end if;
    select array_agg(e.value), array_agg(coalesce((e.value ->> 'company_id')::uuid, c_nobody))
    into v_requests, v_companies
    from json_array_elements(v_batch) as e;
  exception when data_exception or statement_too_complex then
    if sqlstate = '54001' then
      v_batch := farebox._shallow_json(v_batch);
    end if;
    perform farebox._batch_length(v_batch);
    v_requests := array(select e.value from json_array_elements(v_batch) as e);
    select array_agg(coalesce(x.company_id, c_nobody)) into v_companies
    from json_to_recordset(farebox._clean_batch(v_batch)) as x(company_id uuid);
  end;
  v_length := coalesce(cardinality(v_requests), 0);
  if v_length > 10000 then
    perform farebox._batch_length(v_batch);
  end if;

  -- Locked, so that resuming a company waits for those who have seen it paused.
  v_paused := array(
    select p.company_id from farebox.ticket_queue_pauses as p where p.company_id = any (v_companies) order by p.company_id for share);

  v_ids := array(select nextval('farebox.ticket_queue_ids') from generate_series(1, v_length));
  v_floor := farebox._hold_queue_floor();

  -- Each company's requests go behind its own last one, spread evenly over as many ranks as they are. What stands above the floor
  -- is alive, but for what is being claimed right now, so that the look-up never wades through deleted rows.
  insert into farebox.ticket_queue (id, rank, enqueued_at, company_id, request)
  select
    x.id,
    case when x.company_id <> all (v_paused) then l.rank + 1 + (x.ordinal - 1) * l.requests / v_length end,
    v_now, x.company_id, x.request
  from unnest(v_ids, v_companies, v_requests) with ordinality as x(id, company_id, request, ordinal)
  join (
    select d.company_id, d.requests, coalesce((
      select q.rank from farebox.ticket_queue as q
      where q.company_id = d.company_id and q.rank > v_floor
      order by q.rank desc nulls last
      limit 1), v_floor) as rank
    from (select c.company_id, count(*) as requests from unnest(v_companies) as c(company_id) group by c.company_id) as d
    offset 0  -- else the look-up would be made again for each request
  ) as l on l.company_id = x.company_id;
  perform farebox._wake_workers();
  return query select i.ordinal::int, i.id from unnest(v_ids) with ordinality as i(id, ordinal);
end
$$;

comment on function farebox.enqueue_tickets(json) is
  'Stores requests durably, to become tickets soon; the queue id of each element of the batch, in order';

reset role;

-- [copy of db/functions/_hold_queue_floor.sql]
-- Purpose: the rank behind which new requests go in line, for the rest of the caller's transaction: the floor does not rise above it.
-- Returns: ticket_queue_next_floor.
-- Locks: an advisory lock, shared: the generation of that number. It waits for nobody (_raise_queue_floor has it for an instant).
set role farebox_owner;

create function farebox._hold_queue_floor()
returns bigint
language plpgsql volatile security invoker
as $$
declare
  v_generation bigint := coalesce(pg_sequence_last_value('farebox.ticket_queue_generation'), 0);
  v_present bigint;
  v_floor bigint;
begin
  -- A loop, because until we have the lock of the generation, it may have come to its end.
  loop
    perform pg_advisory_xact_lock_shared('farebox.ticket_queue_generation'::regclass::oid::int, (v_generation % 2147483648)::int);
    v_present := coalesce(pg_sequence_last_value('farebox.ticket_queue_generation'), 0);
    v_floor := coalesce(pg_sequence_last_value('farebox.ticket_queue_next_floor'), 0);
    exit when v_present = v_generation;
    v_generation := v_present;
  end loop;
  return v_floor;
end
$$;

comment on function farebox._hold_queue_floor() is 'Internal: the rank behind which the caller''s requests go in line';

reset role;

-- [copy of db/functions/_raise_queue_floor.sql]
-- Purpose: has the floor follow what was claimed, such that nothing is left below: it rises to the next floor once nothing in line is
--   lower and all who rank by a lower one have committed or rolled back (see _hold_queue_floor). Whoever stays longer than 5 s is not
--   waited for, or one stuck session would have all claims wade through what was deleted since; the sweep finds what it leaves.
-- Parameters: p_first, the lowest rank the caller has claimed.
-- Locks and writes: advisory locks, for an instant, never waiting; ticket_queue_floor, _next_floor, _generation, _tick.
set role farebox_owner;

create function farebox._raise_queue_floor(p_first bigint)
returns void
language plpgsql volatile security invoker
set enable_sort = off
as $$
declare
  c_generations constant int := 'farebox.ticket_queue_generation'::regclass::oid::int;
  v_clock bigint := (date_part('epoch', clock_timestamp()) * 1000)::bigint;  -- the real one: this is housekeeping, no rule
  v_floor bigint;
  v_next_floor bigint;
  v_generation bigint;
  v_tick bigint;
  v_lowest bigint;
begin
  if current_setting('transaction_isolation') not like 'read %' then
    return;  -- it sees what was, not what is
  end if;
  begin
    <<turn>>
    begin
      -- One at a time; whoever comes second leaves it be.
      exit turn when not pg_try_advisory_xact_lock('farebox.ticket_queue'::regclass::oid::int, 2);
      v_floor := coalesce(pg_sequence_last_value('farebox.ticket_queue_floor'), 0);
      v_next_floor := coalesce(pg_sequence_last_value('farebox.ticket_queue_next_floor'), 0);
      v_generation := coalesce(pg_sequence_last_value('farebox.ticket_queue_generation'), 0);
      v_tick := coalesce(pg_sequence_last_value('farebox.ticket_queue_tick'), 0);
      exit turn when v_tick between v_clock + 1 and v_clock + 60000;

      if v_tick between v_clock - 5000 and v_clock then
        exit turn when p_first < v_next_floor
          or not pg_try_advisory_xact_lock(c_generations, ((v_generation - 1) % 2147483648)::int);
        v_lowest := (select q.rank from farebox.ticket_queue as q where q.rank >= v_floor order by q.rank limit 1);
        exit turn when v_lowest < v_next_floor;
      end if;
      if v_next_floor > v_floor then
        perform setval('farebox.ticket_queue_floor', least(v_next_floor, p_first));
      end if;
      perform setval('farebox.ticket_queue_next_floor', p_first);
      -- Only now: whoever ranks by the number before holds the generation before.
      perform setval('farebox.ticket_queue_generation', v_generation + 1), setval('farebox.ticket_queue_tick', v_clock + 50);
    end;
    raise exception using errcode = 'TK000', message = 'the locks are given back';
  exception when sqlstate 'TK000' then
    null;
  end;
end
$$;

comment on function farebox._raise_queue_floor(bigint) is 'Internal: has the floor of the queue follow what was claimed';

reset role;

-- [copy of db/functions/_claim_requests.sql]
-- Purpose: takes the requests that are next: those whose backoff is over, then the first in line.
-- Parameters: p_limit; p_most_due, how many of those in backoff at most (if nobody is in line, one more than none);
--   p_with_care, also those whose last attempt began and never ended.
-- Returns: their ids, null when there is nothing to do (then the next producer rings), where their rows are, if that is known, and the
--   requests as a JSON array; those that must be tried in small company never come with others.
-- Locks and writes: ticket_queue, ticket_queue_pauses (shared), never waiting. Paused companies' requests leave the line.
set role farebox_owner;

create function farebox._claim_requests(p_limit int, p_most_due int, p_with_care boolean, out ids bigint[], out places tid[], out batch json)
language plpgsql volatile security invoker
-- Where statistics say that the table is empty, all indexes look alike: only that of the line gives the order without a sort.
set enable_sort = off
as $$
declare
  -- Locked, so that resuming a company waits for those who have seen it paused; one that is being resumed is not paused.
  v_paused uuid[] := array(select p.company_id from farebox.ticket_queue_pauses as p for share skip locked);
  v_floor bigint := coalesce(pg_sequence_last_value('farebox.ticket_queue_floor'), 0);
  v_tick bigint := coalesce(pg_sequence_last_value('farebox.ticket_queue_tick'), 0);
  v_sweep bigint := coalesce(pg_sequence_last_value('farebox.ticket_queue_sweep'), 0);
  v_sleeps boolean := coalesce(pg_sequence_last_value('farebox.ticket_queue_bell'), 0) = 1;
  v_now timestamptz := farebox._now();
  v_clock bigint := (date_part('epoch', clock_timestamp()) * 1000)::bigint;  -- the real one: this is housekeeping, no rule
  v_may_sweep boolean := true;
  v_most_due int := p_most_due;
  v_lowest bigint;
  v_first bigint;
  v_due bigint[];
  v_line bigint[];
  v_is_plain boolean;
  v_together int;
begin
  -- A loop, because a claim may find nothing above the floor, or only requests of paused companies.
  loop
    v_due := array(
      select q.id
      from farebox.ticket_queue as q
      where q.ready_at <= v_now and (p_with_care or q.reason is distinct from 'unfinished')
      order by q.ready_at
      limit v_most_due
      for update skip locked);
    -- No backoff is as long as an hour: a clock that was far ahead has been set back. (In one statement the two would walk the whole index.)
    if cardinality(v_due) < v_most_due then
      v_due := v_due || array(
        select q.id
        from farebox.ticket_queue as q
        where q.ready_at > v_now + interval '1 hour' and (p_with_care or q.reason is distinct from 'unfinished')
        order by q.ready_at
        limit v_most_due - cardinality(v_due)
        for update skip locked);
    end if;

    -- While somebody holds an old snapshot, deleted rows stay in the index in front of the living, and a claim that began there
    -- would wade through them all. So it begins at the floor, which follows what was claimed (see _raise_queue_floor). What is
    -- below it all the same is looked for as often as that takes a hundredth of the time at most, but once a minute.
    if v_may_sweep and (v_clock >= v_sweep or v_sweep > v_clock + 60000) then
      v_may_sweep := false;
      v_lowest := (select q.rank from farebox.ticket_queue as q where q.rank is not null order by q.rank limit 1);
      v_sweep := (date_part('epoch', clock_timestamp()) * 1000)::bigint;
      v_sweep := v_sweep + least(60000, greatest(20, 100 * (v_sweep - v_clock)));
      -- An idle worker whose look costs nothing writes nothing.
      if v_lowest is not null or v_sweep > v_clock + 100 then
        perform setval('farebox.ticket_queue_sweep', v_sweep);
      end if;
    end if;

    select min(c.rank), array_agg(c.id), array_agg(c.place), json_agg(c.request), bool_and(c.together is null)
    into v_first, v_line, places, batch, v_is_plain
    from (
      select q.id, q.ctid as place, q.rank, q.together, q.request
      from farebox.ticket_queue as q
      where q.rank >= least(v_floor, v_lowest)
      order by q.rank, q.id
      limit p_limit - cardinality(v_due)
      for update skip locked
    ) as c;
    if v_first < v_floor then
      perform setval('farebox.ticket_queue_floor', v_first);
    end if;
    if v_first is not null and (v_clock >= v_tick or v_tick > v_clock + 60000) then
      perform farebox._raise_queue_floor(v_first);
    end if;
    ids := v_due || v_line;

    if ids = '{}' then
      if v_most_due = 0 then
        v_most_due := 1;
      elsif not v_sleeps then
        -- From now on producers ring. Whoever looked at the bell before has committed by the second look, or nearly so.
        perform setval('farebox.ticket_queue_bell', 1);
        v_sleeps := true;
      elsif v_may_sweep and v_sweep <= v_clock + 100 then
        v_sweep := 0;  -- it costs little and makes sure
      else
        ids := null;
        return;
      end if;
    else
      exit when v_paused = '{}';
      update farebox.ticket_queue as q
      set rank = null, ready_at = null
      where q.id = any (ids) and v_paused @> array[q.company_id];  -- written so that no index serves but that of ids
      exit when not found;
      v_is_plain := false;
      v_due := '{}';
      ids := array(
        select i.id
        from unnest(ids) with ordinality as i(id, ordinal)
        cross join lateral (select q.* from farebox.ticket_queue as q where q.id = i.id offset 0) as q
        where q.company_id <> all (v_paused)
        order by i.ordinal);
      exit when ids <> '{}';
    end if;
  end loop;

  if v_is_plain and v_due = '{}' then
    return;
  end if;
  places := null;

  -- Requests under suspicion and the others take turns, by chance, so that neither holds up the other.
  v_together := (select min(q.together)::int from farebox.ticket_queue as q where q.id = any (ids));
  if v_together is not null then
    v_is_plain := random() < 0.5 and exists (select from farebox.ticket_queue as q where q.id = any (ids) and q.together is null);
    ids := array(
      select i.id
      from unnest(ids) with ordinality as i(id, ordinal)
      cross join lateral (select q.* from farebox.ticket_queue as q where q.id = i.id offset 0) as q
      where (q.together is null) = v_is_plain
      order by i.ordinal
      limit case when not v_is_plain then v_together end);
  end if;
  batch := (
    select json_agg(q.request order by i.ordinal)
    from unnest(ids) with ordinality as i(id, ordinal)
    cross join lateral (select q.* from farebox.ticket_queue as q where q.id = i.id offset 0) as q);
end
$$;

comment on function farebox._claim_requests(int, int, boolean) is 'Internal: takes the queued requests that are next';

reset role;

-- [copy of db/functions/_keep_dead_requests.sql]
-- Purpose: keeps queued requests that came to no ticket and have no place in unapplied_payments.
-- Parameters: p_queue_ids; of each its reason and detail; p_now.  Returns: nothing.
-- Locks and writes: ticket_queue_dead (by fingerprint and reason); the last lock a worker takes.
set role farebox_owner;

create function farebox._keep_dead_requests(p_queue_ids bigint[], p_reasons text[], p_details text[], p_now timestamptz)
returns void
language plpgsql volatile security invoker
as $$
begin
  insert into farebox.ticket_queue_dead as d (id, company_id, monime_transaction_id, request, reason, detail, times,
    first_seen_at, last_seen_at, fingerprint)
  select
    k.id, p.company_id, p.transaction_id, k.request, k.reason, k.detail, k.times, p_now, p_now, k.fingerprint
  from (
    select distinct on (f.fingerprint, r.reason)
      q.id, q.request, r.reason, r.detail, f.fingerprint, count(*) over (partition by f.fingerprint, r.reason)::int as times
    from unnest(p_queue_ids, p_reasons, p_details) as r(id, reason, detail)
    cross join lateral (select q.* from farebox.ticket_queue as q where q.id = r.id offset 0) as q
    cross join lateral (select sha256(convert_to(q.request::text, 'UTF8')) as fingerprint) as f
    order by f.fingerprint, r.reason, q.id
  ) as k
  cross join lateral farebox._queued_payment(k.request) as p
  order by k.fingerprint, k.reason
  on conflict (fingerprint, reason) do update set
    times = d.times + excluded.times,
    detail = excluded.detail,
    last_seen_at = excluded.last_seen_at;
end
$$;

comment on function farebox._keep_dead_requests(bigint[], text[], text[], timestamptz) is
  'Internal: keeps queued requests that came to no ticket and have no other place';

reset role;

-- [copy of db/functions/_give_up_request.sql]
-- Purpose: ends a request that has used up its attempts: as an unapplied payment; where it has no place there (its payment has no
--   well-formed id, or has a ticket), as a dead request.
-- Parameters: p_request, locked; p_reason; p_now.  Returns: nothing.
-- Locks and writes: ticket_queue, unapplied_payments or ticket_queue_dead (one row).
set role farebox_owner;

create function farebox._give_up_request(p_request farebox.ticket_queue, p_reason text, p_now timestamptz)
returns void
language plpgsql volatile security invoker
as $$
declare
  v_payment record := farebox._queued_payment(p_request.request);
  v_request farebox._ticket_request;
  v_outcome farebox.ticket_outcome;
begin
  if v_payment.transaction_id is null
    or exists (select from farebox.tickets as t where t.monime_transaction_id = v_payment.transaction_id)
  then
    perform farebox._keep_dead_requests(array[p_request.id], array[p_reason], array[null::text], p_now);
  else
    v_request.ordinal := 1;
    v_request.transaction_id := v_payment.transaction_id;
    v_request.company_id := v_payment.company_id;
    v_outcome.ordinal := 1;
    v_outcome.outcome := 'rejected';
    v_outcome.reason := p_reason;
    begin
      perform farebox._keep_unapplied_payments(json_build_array(p_request.request), array[v_request], array[v_outcome], p_now);
    exception when statement_too_complex then  -- as in create_tickets
      perform farebox._keep_unapplied_payments(
        farebox._shallow_json(json_build_array(p_request.request)), array[v_request], array[v_outcome], p_now);
    end;
  end if;
  delete from farebox.ticket_queue as q where q.id = p_request.id;
end
$$;

comment on function farebox._give_up_request(farebox.ticket_queue, text, timestamptz) is
  'Internal: ends a queued request that has used up its attempts';

reset role;

-- [copy of db/functions/_count_retries.sql]
-- Purpose: counts what becomes of queued requests that failed, for metrics_retries(). What counts is PostgreSQL itself, see tables/tally.sql.
-- Parameters: how many are to be tried again, how many were given up.  Returns: nothing.
set role farebox_owner;

create function farebox._count_retries(p_retries int, p_given_up int)
returns void
language plpgsql volatile security invoker
as $$
begin
  -- Loops, because there are 200 marks. Nothing is fetched: the offset passes over all that is read.
  for v_counted in 0 .. p_retries - 1 by 200 loop
    perform from farebox.tally as t where t.retries <= p_retries - v_counted offset 200;
  end loop;
  for v_counted in 0 .. p_given_up - 1 by 200 loop
    perform from farebox.tally as t where t.given_up <= p_given_up - v_counted offset 200;
  end loop;
end
$$;

comment on function farebox._count_retries(int, int) is 'Internal: counts queued requests that are tried again or given up';

reset role;

-- [copy of db/functions/_process_requests.sql]
-- Purpose: makes tickets of claimed requests and settles them, or puts them back.
-- Parameters: p_ids, locked; p_places, where their rows are, or null; p_batch, their requests; p_begun, whether the present attempt is
--   counted already.  Returns: the counts of process_ticket_queue.  Raises: what is not the requests' fault (classes 08, 25, 40, 42, 53, 55, 57, 58;
--   not time-outs). Of a counted attempt it raises nothing, or the count would stand: it takes it back, unless the request may be to blame after all.
-- Locks and writes: as create_tickets, which is called once, so that the one order of locks holds; ticket_queue_dead, ticket_queue.
set role farebox_owner;

create function farebox._process_requests(p_ids bigint[], p_places tid[], p_batch json, p_begun boolean,
  out taken int, out created int, out duplicates int, out conflicts int, out rejected int, out retried int, out dead int)
language plpgsql volatile security invoker
as $$
declare
  c_attempts constant int := 3;
  v_homeless bigint[];
  v_reasons text[];
  v_details text[];
  v_request farebox.ticket_queue;
  v_attempts int;  -- of a single request, with the present one
  v_sqlstate text;
  v_is_timeout boolean;
  v_is_blameless boolean;
  v_began timestamptz := clock_timestamp();
  v_now timestamptz;
begin
  taken := cardinality(p_ids);
  created := 0;
  duplicates := 0;
  conflicts := 0;
  rejected := 0;
  retried := 0;
  dead := 0;
  if taken = 1 then
    select q.* into v_request from farebox.ticket_queue as q where q.id = p_ids[1];
    v_attempts := v_request.attempts + case when p_begun then 0 else 1 end;
    if v_attempts > c_attempts then  -- each was begun and none ended
      perform farebox._give_up_request(v_request, v_request.reason, farebox._now());
      perform farebox._count_retries(0, 1);
      dead := 1;
      return;
    end if;
  end if;

  begin
    select
      (count(*) filter (where o.outcome = 'created'))::int,
      (count(*) filter (where o.outcome = 'duplicate'))::int,
      (count(*) filter (where o.outcome = 'conflict'))::int,
      (count(*) filter (where o.outcome = 'rejected'))::int,
      -- What create_tickets keeps nowhere.
      array_agg(p_ids[o.ordinal]) filter (where o.is_homeless),
      array_agg(coalesce(o.reason, o.outcome)) filter (where o.is_homeless),
      array_agg(array_to_string(o.differing, ', ')) filter (where o.is_homeless)
    into created, duplicates, conflicts, rejected, v_homeless, v_reasons, v_details
    from (
      select o.*,
        o.outcome = 'conflict' or o.reason in ('transaction_id_invalid', 'transaction_id_unavailable') as is_homeless
      from farebox.create_tickets(p_batch) as o
    ) as o;
  exception when others or query_canceled or assert_failure then
    get stacked diagnostics v_sqlstate = returned_sqlstate;
    -- Where the caller does not wait for ever, one request may be why it waits: raised, the same batch would come to the same end again
    -- and again. What somebody has canceled is canceled.
    v_is_timeout := case v_sqlstate
      when '55P03' then current_setting('lock_timeout') <> '0'
      when '57014' then current_setting('statement_timeout') <> '0'
        and clock_timestamp() - v_began > current_setting('statement_timeout')::interval / 2
      else false end;
    if not v_is_timeout
      and (v_sqlstate = '57014' or not p_begun and left(v_sqlstate, 2) in ('08', '25', '40', '42', '53', '55', '57', '58'))
    then
      raise;
    end if;
    v_is_blameless := farebox._is_blameless(v_sqlstate);
  end;

  v_now := farebox._now();
  if v_sqlstate is null then
    if v_homeless is not null then
      perform farebox._keep_dead_requests(v_homeless, v_reasons, v_details, v_now);
    end if;
    if p_places is not null then
      delete from farebox.ticket_queue as q where q.ctid = any (p_places);  -- nobody moves what is locked
    else
      delete from farebox.ticket_queue as q where q.id = any (p_ids);
    end if;
  elsif taken > 1 then
    -- Somebody among them is poison. Nobody is blamed yet: they are tried again in half the company, which finds it in the end.
    update farebox.ticket_queue as q set together = (taken + 1) / 2 where q.id = any (p_ids);
    retried := taken;
  elsif v_is_blameless or v_attempts < c_attempts then
    update farebox.ticket_queue as q
    set
      rank = null,
      ready_at = v_now + farebox._backoff(v_attempts),
      attempts = v_attempts - case when v_is_blameless then 1 else 0 end,
      together = 1,
      reason = 'error_' || v_sqlstate
    where q.id = v_request.id;
    retried := 1;
  else
    perform farebox._give_up_request(v_request, 'error_' || v_sqlstate, v_now);
    dead := 1;
  end if;

  if retried > 0 or dead > 0 then
    perform farebox._count_retries(retried, dead);
  end if;

  -- Whoever waits for outcomes is told, at the commit, whose may be there now.
  if pg_sequence_last_value('farebox.ticket_queue_watch') > date_part('epoch', clock_timestamp()) * 1000 then
    perform pg_notify('farebox_settled', left(array_to_string(p_ids, ','), 7999));
  end if;
end
$$;

comment on function farebox._process_requests(bigint[], tid[], json, boolean) is
  'Internal: makes tickets of claimed requests and settles them, or puts them back';

reset role;

-- [copy of db/functions/process_ticket_queue.sql]
-- Purpose: claims queued requests, makes their tickets and settles them, all in the caller's transaction: whatever stops it puts
--   everything back. Any number of callers at once. Requests are done when they have an outcome, whichever it is.
-- Parameters: p_limit, 1 to 10,000.  Returns: one row of counts; taken = 0 when nothing is ready but for begin_queued_request.
-- Raises: TK003; what is not the requests' fault (such as 40001, 53100).  Locks and writes: ticket_queue (skipping what is locked),
--   then as create_tickets, then ticket_queue_dead.
set role farebox_owner;

create function farebox.process_ticket_queue(p_limit int default 100)
returns table (taken int, created int, duplicates int, conflicts int, rejected int, retried int, dead int)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
declare
  v_claim record;
begin
  perform farebox._check_limit(p_limit, 10000);
  -- Those in backoff are half of a batch, and half of the batches of one: neither they nor the line have to wait for the other.
  v_claim := farebox._claim_requests(p_limit, (p_limit + (random() < 0.5)::int) / 2, false);
  if v_claim.ids is null then
    return query select 0, 0, 0, 0, 0, 0, 0;
    return;
  end if;
  return query select p.* from farebox._process_requests(v_claim.ids, v_claim.places, v_claim.batch, false) as p;
end
$$;

comment on function farebox.process_ticket_queue(int) is
  'Makes tickets of queued requests and settles them, in one transaction; one row of counts';

reset role;

-- [copy of db/functions/begin_queued_request.sql]
-- Purpose: the first half of processing one request with care: counts its attempt, so that once the caller has committed, it counts
--   even if the second half (process_queued_request) takes down the session or the server. One at a time in the whole database.
-- Parameters: p_unfinished_only, only requests whose last attempt began and never ended: process_ticket_queue leaves those out.
-- Returns: the queue id, null when there is none or another one's attempt may be under way.
-- Locks and writes: an advisory lock, ticket_queue; from now on the request is in backoff, after which it is free again.
set role farebox_owner;

create function farebox.begin_queued_request(p_unfinished_only boolean default false)
returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
declare
  v_claim record;
begin
  if p_unfinished_only and not exists (
    select from farebox.ticket_queue as q
    where (q.ready_at <= farebox._now() or q.ready_at > farebox._now() + interval '1 hour') and q.reason = 'unfinished')
  then
    return null;
  end if;
  perform pg_advisory_xact_lock('farebox.ticket_queue'::regclass::oid::int, 1);
  -- What would rest for longer than a minute is not under way: the clock was set back, and nobody else must wait for that.
  if exists (
    select from farebox.ticket_queue as q
    where q.ready_at > farebox._now() and q.ready_at < farebox._now() + interval '1 minute' and q.reason = 'unfinished')
  then
    return null;
  end if;
  -- By turns, as in process_ticket_queue: those that are put back and blamed for nothing come again for ever.
  v_claim := farebox._claim_requests(1, case when p_unfinished_only then 1 else (random() < 0.5)::int end, true);
  if exists (select from farebox.ticket_queue as q where q.id = v_claim.ids[1] and q.reason = 'unfinished') then
    perform farebox._count_retries(1, 0);
  end if;
  update farebox.ticket_queue as q
  set
    rank = null,
    ready_at = farebox._now() + farebox._backoff(q.attempts + 1),
    attempts = least(q.attempts + 1, 4),
    together = 1,
    reason = 'unfinished'  -- until it has ended
  where q.id = v_claim.ids[1];
  return v_claim.ids[1];
end
$$;

comment on function farebox.begin_queued_request(boolean) is
  'Counts the next request''s attempt before it is made by process_queued_request, so that it counts whatever happens then';

reset role;

-- [copy of db/functions/process_queued_request.sql]
-- Purpose: the second half of processing one request with care, after begin_queued_request has committed.
-- Parameters: p_queue_id.  Returns: the counts of process_ticket_queue; taken = 0 when somebody else has the request or had it.
-- Raises, locks and writes: as process_ticket_queue; but it waits for whoever passes by the request right now, or its attempt would
--   have been counted and not made.
set role farebox_owner;

create function farebox.process_queued_request(p_queue_id bigint)
returns table (taken int, created int, duplicates int, conflicts int, rejected int, retried int, dead int)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
set enable_seqscan = off
set enable_bitmapscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
declare
  v_request farebox.ticket_queue;
begin
  select q.* into v_request from farebox.ticket_queue as q where q.id = p_queue_id and q.attempts > 0 for update;
  if v_request.id is null then
    return query select 0, 0, 0, 0, 0, 0, 0;
    return;
  end if;
  return query select p.* from farebox._process_requests(array[v_request.id], null, json_build_array(v_request.request), true) as p;
end
$$;

comment on function farebox.process_queued_request(bigint) is
  'Processes the request whose attempt begin_queued_request has counted; one row of counts';

reset role;

-- [copy of db/functions/drain_ticket_queue.sql]
-- Purpose: processes the queue until nothing is ready, for schedulers without the worker: pg_cron, psql. Commits each batch. The
--   first p_limit requests are processed with care, one by one: if the last run was taken down by one, it is among them.
-- Parameters: p_limit, requests in a batch, 1 to 10,000; p_batches, how many batches at most.
-- Raises: TK003, and as process_ticket_queue; what was committed stays done, the next run goes on.
-- It commits, so it cannot have its owner's rights or settings of its own: it only calls functions that do.
set role farebox_owner;

create procedure farebox.drain_ticket_queue(p_limit int default 100, p_batches int default 10000)
language plpgsql security invoker
as $$
declare
  v_queue_id bigint;
  v_taken int;
begin
  if (p_limit between 1 and 10000) is not true then
    raise exception using errcode = 'TK003',
      message = format('the limit is %s', coalesce(p_limit::text, 'null')),
      hint = 'pass a limit from 1 to 10000';
  elsif (p_batches >= 1) is not true then
    raise exception using errcode = 'TK003',
      message = format('the number of batches is %s', coalesce(p_batches::text, 'null')),
      hint = 'pass at least one batch';
  end if;

  for v_count in 1 .. p_limit loop
    v_queue_id := farebox.begin_queued_request();
    commit;
    exit when v_queue_id is null;
    perform from farebox.process_queued_request(v_queue_id);
    commit;
  end loop;
  for v_count in 1 .. p_batches loop
    select p.taken into v_taken from farebox.process_ticket_queue(p_limit) as p;
    commit;
    if v_taken = 0 then
      -- What is left may be requests whose last attempt began and never ended: they are processed with care only.
      v_queue_id := farebox.begin_queued_request(p_unfinished_only => true);
      commit;
      exit when v_queue_id is null;
      perform from farebox.process_queued_request(v_queue_id);
      commit;
    end if;
  end loop;
end
$$;

comment on procedure farebox.drain_ticket_queue(int, int) is
  'Processes the queue until nothing is ready, committing each batch; for pg_cron and psql';

reset role;

-- [copy of db/functions/queued_outcomes.sql]
-- Purpose: what became of queued requests, for whoever waits: asks again when told by NOTIFY farebox_settled, or after a while.
-- Parameters: p_queue_ids, p_batch, the requests as they were enqueued, one for each id.
-- Returns: an outcome for each that is settled, none for those that wait. It is read from what is stored now: `created` when the
--   payment has its ticket with these fields, by whichever request; reason `dropped` when nothing is left of the request.
-- Raises: TK001, TK002, TK003 (as many ids as requests).  Writes: ticket_queue_watch: workers notify for the next two seconds.
set role farebox_owner;

create function farebox.queued_outcomes(p_queue_ids bigint[], p_batch json)
returns setof farebox.ticket_outcome
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
set jit = off
as $$
declare
  v_batch json := p_batch;
  v_length int;
  v_clock bigint := (date_part('epoch', clock_timestamp()) * 1000)::bigint;
  v_settled int[];
begin
  begin
    v_length := farebox._batch_length(v_batch);
    perform b from farebox._parse_batch(v_batch) as b;  -- whole rows: a column that is not asked for is not read
  exception when data_exception or statement_too_complex then
    v_batch := farebox._clean_batch(case when sqlstate = '54001' then farebox._shallow_json(v_batch) else v_batch end);
    v_length := farebox._batch_length(v_batch);
  end;
  if p_queue_ids is null or cardinality(p_queue_ids) <> v_length then
    raise exception using errcode = 'TK003',
      message = format('%s queue ids for %s requests', coalesce(cardinality(p_queue_ids)::text, 'null'), v_length),
      hint = 'pass the id of each request';
  end if;
  if (select w.last_value from farebox.ticket_queue_watch as w) < v_clock + 1000 then
    perform setval('farebox.ticket_queue_watch', v_clock + 2000);
  end if;

  -- First who waits no more, then, by a later snapshot, what is stored: nobody is found settled whose ticket is not seen.
  v_settled := array(
    select i.ordinal::int
    from unnest(p_queue_ids) with ordinality as i(id, ordinal)
    left join lateral (select q.id from farebox.ticket_queue as q where q.id = i.id offset 0) as q on true
    where q.id is null);
  if v_settled = '{}' then
    return;
  end if;

  return query
    with compared as (
      select
        e.ordinal, e.given_id, e.transaction_id, e.company_id, t.id as found_id, t.company_id = e.company_id as is_own,
        farebox._differing(t.route_id, t.passenger_phone, k.code, t.monime_otp, t.amount,
          e.route_id, e.passenger_phone, e.payment_code, e.monime_otp, e.amount) as differing,
        x.ticket_id is not null as is_recorded,
        u.reason
      from (select b.* from farebox._parse_batch(v_batch) as b where b.ordinal = any (v_settled) offset 0) as e
      left join lateral (
        select t.* from farebox.tickets as t
        where t.monime_transaction_id = case when e.company_id is not null then e.transaction_id end offset 0) as t on true
      left join lateral (select k.code from farebox.payment_codes as k where k.id = t.payment_code_id offset 0) as k on true
      left join lateral (select x.ticket_id from farebox.transactions as x where x.ticket_id = t.id offset 0) as x on true
      left join lateral (
        select u.reason, u.resolved_at from farebox.unapplied_payments as u
        where u.monime_transaction_id = e.transaction_id offset 0) as u on u.resolved_at is null
      offset 0
    )
    select
      c.ordinal,
      c.given_id,
      case when c.is_own is not true then 'rejected' when c.differing = '{}' then 'created' else 'conflict' end,
      case
        when c.is_own then null
        when (length(c.transaction_id) between 1 and 64) is not true then 'transaction_id_invalid'
        when c.company_id is null then 'company_id_invalid'
        when not c.is_own then 'transaction_id_unavailable'
        else coalesce(c.reason, 'dropped')
      end,
      case when c.is_own and c.differing = '{}' then c.found_id end,
      case when c.is_own and c.differing <> '{}' then c.found_id end,
      case when c.is_own and c.differing <> '{}' then c.differing end,
      c.is_own is true and c.differing = '{}' and c.is_recorded
    from compared as c
    order by c.ordinal;
end
$$;

comment on function farebox.queued_outcomes(bigint[], json) is
  'What became of queued requests; no row for those that still wait';

reset role;

-- [copy of db/functions/queue_size.sql]
-- Purpose: how many requests are stored and not settled yet, whether in line, in backoff or paused.
-- Returns: the number.
set role farebox_owner;

create function farebox.queue_size()
returns bigint
language sql stable security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$ select count(*) from farebox.ticket_queue $$;

comment on function farebox.queue_size() is 'How many queued requests are not settled yet';

reset role;

-- [copy of db/functions/queue_metrics.sql]
-- Purpose: the state of the queue for monitoring, in one row.
-- Returns: size (all that is stored and not settled) and the age of the oldest; ready, delayed (in backoff), paused; by_attempts, the
--   number of requests for each number of failed attempts; dead (list_dead_requests counts them); dead_tuples of the table, and
--   oldest_xmin_age, in transactions, of whatever keeps vacuum from removing them: an old snapshot, a prepared transaction, a slot.
set role farebox_owner;

create function farebox.queue_metrics()
returns table (size bigint, oldest_age interval, ready bigint, delayed bigint, paused bigint, by_attempts json, dead bigint,
  dead_tuples bigint, oldest_xmin_age bigint)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
set jit = off
as $$
declare
  v_now timestamptz := farebox._now();
begin
  return query
    select
      coalesce(sum(g.requests), 0)::bigint,
      v_now - min(g.oldest_at),
      coalesce(sum(g.ready), 0)::bigint,
      coalesce(sum(g.delayed), 0)::bigint,
      coalesce(sum(g.requests - g.ready - g.delayed), 0)::bigint,
      coalesce(json_object_agg(g.attempts, g.requests order by g.attempts) filter (where g.attempts is not null), '{}'),
      (select count(*) from farebox.ticket_queue_dead)
        + (select count(*) from farebox.unapplied_payments as u where u.resolved_at is null and farebox._is_given_up(u.reason)),
      pg_stat_get_dead_tuples('farebox.ticket_queue'::regclass),
      (
        select max(x.age)
        from (
          select greatest(age(a.backend_xmin), age(a.backend_xid)) as age from pg_stat_activity as a
          union all
          select greatest(age(s.xmin), age(s.catalog_xmin)) from pg_replication_slots as s
          union all
          select age(x.transaction) from pg_prepared_xacts as x
        ) as x
      )::bigint
    from (
      select
        q.attempts,
        count(*) as requests,
        min(q.enqueued_at) as oldest_at,
        count(*) filter (where q.rank is not null or q.ready_at <= v_now) as ready,
        count(*) filter (where q.ready_at > v_now) as delayed
      from farebox.ticket_queue as q
      group by q.attempts
    ) as g;
end
$$;

comment on function farebox.queue_metrics() is 'The state of the queue for monitoring, in one row';

reset role;

-- [copy of db/functions/list_queued_requests.sql]
-- Purpose: requests that wait, oldest first, a page at a time; to search them by company, payment or state.
-- Parameters: p_limit, 1 to 1,000; p_company_id, p_transaction_id, p_state (ready, delayed, paused), null = any; the last id of the
--   page before.  Returns: the requests.  Raises: TK003.
set role farebox_owner;

create function farebox.list_queued_requests(p_limit int default 100, p_company_id uuid default null,
  p_transaction_id text default null, p_state text default null, p_after_queue_id bigint default null)
returns table (queue_id bigint, company_id uuid, monime_transaction_id text, state text, attempts int, reason text,
  enqueued_at timestamptz, ready_at timestamptz, request json)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
set jit = off
as $$
declare
  v_now timestamptz := farebox._now();
  v_transaction_id text := farebox._trimmed(p_transaction_id);
begin
  perform farebox._check_limit(p_limit, 1000);
  if p_state not in ('ready', 'delayed', 'paused') then
    raise exception using errcode = 'TK003', message = 'there is no such state', hint = 'pass ready, delayed or paused';
  end if;

  return query
    select l.id, p.company_id, p.transaction_id, l.state, l.attempts::int, l.reason, l.enqueued_at, l.ready_at, l.request
    from (
      select q.*,
        case when q.ready_at > v_now then 'delayed' when q.rank is null and q.ready_at is null then 'paused' else 'ready' end as state
      from farebox.ticket_queue as q
      where q.id > coalesce(p_after_queue_id, 0)
    ) as l
    cross join lateral farebox._queued_payment(l.request) as p
    where (p_company_id is null or l.company_id = p_company_id)
      and (p_state is null or l.state = p_state)
      -- An id is nearly always written without escapes: so only what holds it as it stands is read.
      and (v_transaction_id is null
        or (position(v_transaction_id in l.request::text) > 0 or position('\' in l.request::text) > 0)
          and p.transaction_id = v_transaction_id)
    order by l.id
    limit p_limit;
end
$$;

comment on function farebox.list_queued_requests(int, uuid, text, text, bigint) is
  'Queued requests that wait, oldest first, by keyset pages';

reset role;

-- [copy of db/functions/list_dead_requests.sql]
-- Purpose: what the queue gave up or came to no ticket and is kept nowhere else, longest not seen first, a page at a time.
-- Parameters: p_limit, 1 to 1,000; p_company_id, p_transaction_id, p_reason, null = any; the last row of the page before.
-- Returns: the requests; their key is what retry_queued_requests and drop_queued_requests take: queue:<id>, or payment:<id> for
--   those that are unapplied payments.  Raises: TK003.
set role farebox_owner;

create function farebox.list_dead_requests(p_limit int default 100, p_company_id uuid default null, p_transaction_id text default null,
  p_reason text default null, p_after_last_seen_at timestamptz default null, p_after_key text default null)
returns table (key text, company_id uuid, monime_transaction_id text, reason text, detail text, attempts int,
  first_seen_at timestamptz, last_seen_at timestamptz, request json)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
set jit = off
as $$
begin
  perform farebox._check_limit(p_limit, 1000);

  return query
    select l.*
    from (
      select 'queue:' || d.id as key, d.company_id, d.monime_transaction_id, d.reason, d.detail, d.times as attempts,
        d.first_seen_at, d.last_seen_at, d.request
      from farebox.ticket_queue_dead as d
      union all
      select 'payment:' || u.monime_transaction_id, u.company_id, u.monime_transaction_id, u.reason, null, u.attempts,
        u.first_seen_at, u.last_seen_at, u.request
      from farebox.unapplied_payments as u
      where u.resolved_at is null and farebox._is_given_up(u.reason)
    ) as l
    where (p_company_id is null or l.company_id = p_company_id)
      and (p_transaction_id is null or l.monime_transaction_id = farebox._trimmed(p_transaction_id) collate "C")
      and (p_reason is null or l.reason = p_reason)
      and l.last_seen_at >= coalesce(p_after_last_seen_at, '-infinity')
      and (p_after_last_seen_at is null or (l.last_seen_at, l.key collate "C") > (p_after_last_seen_at, p_after_key collate "C"))
    order by l.last_seen_at, l.key collate "C"
    limit p_limit;
end
$$;

comment on function farebox.list_dead_requests(int, uuid, text, text, timestamptz, text) is
  'Queued requests that were given up or came to no ticket, by keyset pages';

reset role;

-- [copy of db/functions/retry_queued_requests.sql]
-- Purpose: has requests tried again now: those in backoff, dead ones, and unapplied payments, whether the queue gave them up or a rule
--   rejected them.
-- Parameters: p_keys, at most 10,000: queue:<id> or payment:<id>, as list_dead_requests shows them.
-- Returns: for each, in order, its queue id from now on; null when there is no such request. Its attempts count from the start.
-- Raises: TK002, TK003.  Locks and writes: an advisory lock of operators, ticket_queue, ticket_queue_dead (by id). An unapplied
--   payment stays until it has its ticket.
set role farebox_owner;

create function farebox.retry_queued_requests(p_keys text[])
returns table (key text, queue_id bigint)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
declare
  v_ids bigint[];
  v_payments text[];
  v_keys text[];
  v_batch json;
  v_new_ids bigint[];
begin
  select i.queue_ids, i.transaction_ids into v_ids, v_payments from farebox._read_queue_keys(p_keys) as i;

  -- One operator at a time: those who retry and those who pause or resume lock the same requests and pauses, each in an order of its own.
  perform pg_advisory_xact_lock('farebox.ticket_queue'::regclass::oid::int, 2);
  perform from farebox.ticket_queue as q where q.id = any (v_ids) order by q.id for update;
  update farebox.ticket_queue as q
  set ready_at = case when q.ready_at is not null then farebox._now() end, attempts = 0, reason = null
  where q.id = any (v_ids);

  perform from farebox.ticket_queue_dead as d where d.id = any (v_ids) order by d.id for update;
  with gone as (
    delete from farebox.ticket_queue_dead as d where d.id = any (v_ids) returning 'queue:' || d.id as key, d.request
  ),
  again as (
    select g.key, g.request from gone as g
    union all
    select 'payment:' || u.monime_transaction_id, u.request
    from farebox.unapplied_payments as u
    where u.resolved_at is null and u.monime_transaction_id = any (v_payments)
  )
  select array_agg(a.key order by a.key), json_agg(a.request order by a.key) into v_keys, v_batch from again as a;
  if v_batch is not null then
    v_new_ids := array(select e.queue_id from farebox.enqueue_tickets(v_batch) as e order by e.ordinal);
  end if;
  perform farebox._wake_workers();

  return query
    select k.key, coalesce(q.id, n.id)
    from unnest(p_keys) with ordinality as k(key, ordinal)
    left join farebox.ticket_queue as q on 'queue:' || q.id = k.key and q.id = any (v_ids)
    left join unnest(v_keys, v_new_ids) as n(key, id) on n.key = k.key
    order by k.ordinal;
end
$$;

comment on function farebox.retry_queued_requests(text[]) is 'Has queued requests in backoff and dead ones tried again now';

reset role;

-- [copy of db/functions/drop_queued_requests.sql]
-- Purpose: removes requests for good: waiting ones, dead ones, and payments the queue gave up.
-- Parameters: p_keys, at most 10,000: queue:<id> or payment:<id>, as list_dead_requests shows them.
-- Returns: what was removed, whole, for the caller to keep: of money nothing vanishes without a trace.
-- Raises: TK002, TK003.  Locks and writes: ticket_queue (skipping what is being processed: that is no longer waiting),
--   unapplied_payments (by payment), ticket_queue_dead (by id).
set role farebox_owner;

create function farebox.drop_queued_requests(p_keys text[])
returns table (key text, company_id uuid, monime_transaction_id text, reason text, request json)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
declare
  v_ids bigint[];
  v_payments text[];
begin
  select i.queue_ids, i.transaction_ids into v_ids, v_payments from farebox._read_queue_keys(p_keys) as i;

  return query
    with waiting as (
      select q.id from farebox.ticket_queue as q where q.id = any (v_ids) order by q.id for update skip locked
    )
    delete from farebox.ticket_queue as q
    using waiting as w
    where q.id = w.id
    returning 'queue:' || q.id, (farebox._queued_payment(q.request)).company_id, (farebox._queued_payment(q.request)).transaction_id,
      q.reason, q.request;
  return query
    with given_up as (
      select u.monime_transaction_id from farebox.unapplied_payments as u
      where u.resolved_at is null and farebox._is_given_up(u.reason) and u.monime_transaction_id = any (v_payments)
      order by u.monime_transaction_id
      for update
    )
    delete from farebox.unapplied_payments as u
    using given_up as g
    where u.monime_transaction_id = g.monime_transaction_id
    returning 'payment:' || u.monime_transaction_id, u.company_id, u.monime_transaction_id, u.reason, u.request;
  return query
    with dead as (
      select d.id from farebox.ticket_queue_dead as d where d.id = any (v_ids) order by d.id for update
    )
    delete from farebox.ticket_queue_dead as d
    using dead as x
    where d.id = x.id
    returning 'queue:' || d.id, d.company_id, d.monime_transaction_id, d.reason, d.request;
end
$$;

comment on function farebox.drop_queued_requests(text[]) is
  'Removes queued requests for good, waiting or dead; returns what was removed';

reset role;

-- [copy of db/functions/pause_company_queue.sql]
-- Purpose: lets a company's queued requests wait, those to come too, until resume_company_queue. What is being processed ends.
-- Parameters: p_company_id.  Returns: how many of its requests wait now.
-- Locks and writes: an advisory lock of operators, ticket_queue_pauses, ticket_queue (its requests; a million of them take some ten seconds).
set role farebox_owner;

create function farebox.pause_company_queue(p_company_id uuid)
returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
begin
  if p_company_id is null then
    raise exception using errcode = 'TK003', message = 'the company is null', hint = 'pass its id';
  end if;
  -- One operator at a time: those who retry and those who pause or resume lock the same requests and pauses, each in an order of its own.
  perform pg_advisory_xact_lock('farebox.ticket_queue'::regclass::oid::int, 2);
  -- Locked also when it is there already: whoever resumes the company at this moment comes before or after all of this.
  insert into farebox.ticket_queue_pauses as p (company_id, paused_at) values (p_company_id, farebox._now())
  on conflict (company_id) do update set paused_at = p.paused_at;
  -- Out of the line, or every claim would have to pass them.
  update farebox.ticket_queue as q
  set rank = null, ready_at = null
  where q.company_id = p_company_id and (q.rank is not null or q.ready_at is not null);
  return (select count(*) from farebox.ticket_queue as q where q.company_id = p_company_id);
end
$$;

comment on function farebox.pause_company_queue(uuid) is 'Lets a company''s queued requests wait until it is resumed';

reset role;

-- [copy of db/functions/resume_company_queue.sql]
-- Purpose: puts a paused company's requests back in line, in the order they came, behind nobody and in front of nobody else's.
-- Parameters: p_company_id.  Returns: how many went back in line.
-- Raises: TK004 unless READ COMMITTED: an older snapshot would not see the latest requests, and those would wait for ever.
-- Locks and writes: an advisory lock of operators, ticket_queue_pauses, ticket_queue (its requests; a million of them take some ten seconds).
set role farebox_owner;

create function farebox.resume_company_queue(p_company_id uuid)
returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
declare
  v_floor bigint := farebox._hold_queue_floor();
  v_resumed bigint;
begin
  if current_setting('transaction_isolation') not like 'read %' then
    raise exception using errcode = 'TK004',
      message = format('a queue cannot be resumed in isolation level %s', current_setting('transaction_isolation')),
      hint = 'resume it in a transaction of isolation level read committed';
  end if;
  -- One operator at a time: those who retry and those who pause or resume lock the same requests and pauses, each in an order of its own.
  perform pg_advisory_xact_lock('farebox.ticket_queue'::regclass::oid::int, 2);
  delete from farebox.ticket_queue_pauses as p where p.company_id = p_company_id;
  update farebox.ticket_queue as q
  set
    rank = case when q.attempts = 0 then p.rank end,
    ready_at = case when q.attempts > 0 then farebox._now() end  -- where it was: what began and never ended needs care
  from (
    select q.id, v_floor + row_number() over (order by q.id) as rank
    from farebox.ticket_queue as q
    where q.company_id = p_company_id and q.rank is null and q.ready_at is null
  ) as p
  where q.id = p.id;
  get diagnostics v_resumed = row_count;
  perform farebox._wake_workers();
  return v_resumed;
end
$$;

comment on function farebox.resume_company_queue(uuid) is 'Puts a paused company''s queued requests back in line';

reset role;

-- [copy of db/functions/list_paused_companies.sql]
-- Purpose: which companies' queued requests wait for resume_company_queue.
-- Returns: each, longest paused first, with the number of its requests.
set role farebox_owner;

create function farebox.list_paused_companies()
returns table (company_id uuid, paused_at timestamptz, waiting bigint)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
begin
  return query
    select p.company_id, p.paused_at, (select count(*) from farebox.ticket_queue as q where q.company_id = p.company_id)
    from farebox.ticket_queue_pauses as p
    order by p.paused_at, p.company_id;
end
$$;

comment on function farebox.list_paused_companies() is 'Companies whose queued requests are paused';

reset role;

-- [copy of db/functions/metrics_tickets.sql]
-- Purpose: metrics of what became of payments, from numbers that PostgreSQL keeps: selling writes none of them.
-- Returns: one row for each sample, for Prometheus: metric, labels, value. Counters include what was rolled back, lag by a second or, in
--   a long transaction, until its end, and start anew when statistics are reset, the server crashes or a replica is promoted.
set role farebox_owner;

create function farebox.metrics_tickets()
returns table (metric text, labels jsonb, value double precision)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
-- Whoever watches must not stand in line: a table that is locked costs this group of metrics, not the whole scrape.
set lock_timeout = '1s'
as $$
begin
  return query
    select 'farebox_rows_written_total', jsonb_build_object('table', s.relname, 'operation', o.operation), o.rows::double precision
    from pg_stat_all_tables as s
    cross join lateral (values ('insert', s.n_tup_ins), ('update', s.n_tup_upd), ('delete', s.n_tup_del)) as o (operation, rows)
    where s.schemaname = 'farebox'

    union all
    select 'farebox_ticket_outcomes_total', jsonb_build_object('outcome', o.outcome), o.answers::double precision
    from (values
      ('created', pg_stat_get_tuples_inserted('farebox.tickets'::regclass)),
      ('duplicate', pg_stat_get_tuples_returned('farebox.idx_tally_duplicates'::regclass)),
      ('conflict', pg_stat_get_tuples_returned('farebox.idx_tally_conflicts'::regclass)),
      ('rejected', pg_stat_get_tuples_returned('farebox.idx_tally_rejections'::regclass))) as o (outcome, answers)

    union all
    -- -1 is what a table has that was never analyzed.
    select 'farebox_rows_estimate', jsonb_build_object('table', c.relname), greatest(c.reltuples, 0)::double precision
    from pg_class as c
    where c.relnamespace = 'farebox'::regnamespace and c.relkind in ('r', 'p')

    union all
    select 'farebox_tickets_pending_estimate', '{}', greatest(c.reltuples, 0)::double precision
    from pg_class as c
    where c.oid = 'farebox.idx_tickets_pending'::regclass

    union all
    -- Ids are in order of time: one look at the end of the index.
    select 'farebox_last_ticket_timestamp_seconds', '{}', extract(epoch from t.created_at)::double precision
    from (select t.created_at from farebox.tickets as t order by t.id desc limit 1) as t;
end
$$;

comment on function farebox.metrics_tickets() is 'Metrics of tickets and of the rows behind them, for Prometheus';

reset role;

-- [copy of db/functions/metrics_retries.sql]
-- Purpose: metrics of what is tried again by the queue. What drivers send again they count themselves (farebox_driver_retries_total);
--   here it shows as duplicates, if the first try had made its ticket.
-- Returns: one row for each sample: metric, labels, value. Retries: requests put back after an error, one by one or together with their
--   batch, or begun again because the attempt before never ended; a batch that was rolled back as a whole (its worker died, the
--   server refused it) is taken anew and not counted. Counters: see metrics_tickets().
set role farebox_owner;

create function farebox.metrics_retries()
returns table (metric text, labels jsonb, value double precision)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
-- Whoever watches must not stand in line: a table that is locked costs this group of metrics, not the whole scrape.
set lock_timeout = '1s'
as $$
begin
  return query
    select 'farebox_queue_retries_total', '{}'::jsonb, pg_stat_get_tuples_returned('farebox.idx_tally_retries'::regclass)::double precision

    union all
    select 'farebox_queue_given_up_total', '{}', pg_stat_get_tuples_returned('farebox.idx_tally_given_up'::regclass)::double precision

    union all
    select 'farebox_queue_backoff', jsonb_build_object('reason', q.reason), count(*)::double precision
    from farebox.ticket_queue as q
    where q.ready_at is not null and q.reason is not null
    group by q.reason;
end
$$;

comment on function farebox.metrics_retries() is 'Metrics of queued requests that are tried again, for Prometheus';

reset role;

-- [copy of db/functions/metrics_batches.sql]
-- Purpose: metrics of the calls that sell: how many, how long, and how long the oldest of now has been at it.
-- Returns: one row for each sample: metric, labels, value. Totals need track_functions = pl, or pg_stat_statements; without they are left out.
--   Runs with the caller's rights: other logins' calls show to members of pg_monitor only.
set role farebox_owner;

create function farebox.metrics_batches()
returns table (metric text, labels jsonb, value double precision)
language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
-- Whoever watches must not stand in line: a table that is locked costs this group of metrics, not the whole scrape.
set lock_timeout = '1s'
as $$
declare
  v_functions constant text[] := array['create_tickets', 'create_ticket', 'enqueue_tickets', 'process_ticket_queue'];
  v_schema name;
begin
  return query
    select m.metric, jsonb_build_object('function', s.funcname), m.value
    from pg_stat_user_functions as s
    cross join lateral (values
      ('farebox_function_calls_total', s.calls::double precision),
      ('farebox_function_seconds_total', s.total_time / 1000)) as m (metric, value)
    where s.schemaname = 'farebox' and s.funcname = any (v_functions);

  return query
    with running as (
      select extract(epoch from clock_timestamp() - a.query_start)::double precision as seconds
      from pg_stat_activity as a
      where a.state = 'active' and a.datname = current_database() and a.pid <> pg_backend_pid()
        and a.query ~* 'farebox\.(create_tickets?|process_ticket_queue|apply_unapplied_payments)\M'
    )
    select 'farebox_batches_running', '{}'::jsonb, count(*)::double precision from running
    union all
    select 'farebox_batch_running_seconds', '{}', coalesce(max(seconds), 0) from running;

  select n.nspname into v_schema
  from pg_extension as e
  join pg_namespace as n on n.oid = e.extnamespace
  where e.extname = 'pg_stat_statements';
  if found then
    begin
      return query execute format($sql$
        with statements as (
          select substring(s.query from '(?i)farebox\.(\w+)') as function, s.calls, s.total_exec_time, s.max_exec_time, s.rows
          from %I.pg_stat_statements as s
          where s.toplevel and s.dbid = (select d.oid from pg_database as d where d.datname = current_database())
            and s.query ~* '^\s*select\M.*farebox\.\w+\s*\('
        )
        select m.metric, jsonb_build_object('function', s.function), m.value
        from (
          select s.function, sum(s.calls) as calls, sum(s.total_exec_time) as total, max(s.max_exec_time) as longest, sum(s.rows) as rows
          from statements as s where s.function = any ($1) group by s.function) as s
        cross join lateral (values
          ('farebox_statement_calls_total', s.calls::double precision),
          ('farebox_statement_rows_total', s.rows::double precision),
          ('farebox_statement_seconds_total', s.total / 1000),
          ('farebox_statement_seconds_max', s.longest / 1000)) as m (metric, value)
        $sql$, v_schema)
      using v_functions;
    exception when object_not_in_prerequisite_state then
      null;  -- the extension is there, but its library was not loaded with the server
    end;
  end if;
end
$$;

comment on function farebox.metrics_batches() is 'Metrics of the calls that sell tickets, for Prometheus';

reset role;

-- [copy of db/functions/metrics_unapplied.sql]
-- Purpose: metrics of the money that could not become tickets.
-- Returns: one row for each sample: metric, labels, value. Beyond 100,000 open payments the least recently tried stand for all.
set role farebox_owner;

create function farebox.metrics_unapplied()
returns table (metric text, labels jsonb, value double precision)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
-- Whoever watches must not stand in line: a table that is locked costs this group of metrics, not the whole scrape.
set lock_timeout = '1s'
as $$
begin
  return query
    with open as materialized (
      select u.reason, u.first_seen_at
      from farebox.unapplied_payments as u
      where u.resolved_at is null
      order by u.last_seen_at
      limit 100000
    )
    select 'farebox_unapplied_payments', jsonb_build_object('reason', o.reason), count(*)::double precision
    from open as o
    group by o.reason

    union all
    select 'farebox_unapplied_oldest_seconds', '{}', greatest(coalesce(extract(epoch from farebox._now() - min(o.first_seen_at)), 0), 0)::double precision
    from open as o;
end
$$;

comment on function farebox.metrics_unapplied() is 'Metrics of open unapplied payments by reason, for Prometheus';

reset role;

-- [copy of db/functions/metrics_codes.sql]
-- Purpose: metrics of payment codes: how many, how many are nearly spent (90 % and more), how many are past their end and still called active.
-- Returns: one row for each sample: metric, labels, value. Reads payment_codes once.
set role farebox_owner;

create function farebox.metrics_codes()
returns table (metric text, labels jsonb, value double precision)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
-- Whoever watches must not stand in line: a table that is locked costs this group of metrics, not the whole scrape.
set lock_timeout = '1s'
as $$
declare
  v_now timestamptz := farebox._now();
begin
  return query
    with counted as (
      select
        count(*) filter (where k.status = 'active') as active,
        count(*) filter (where k.status = 'expired') as expired,
        count(*) filter (where k.status = 'cancelled') as cancelled,
        count(*) filter (where k.status = 'active' and k.used_tickets >= 0.9 * k.total_tickets) as nearly_spent,
        count(*) filter (where k.status = 'active' and k.expires_at <= v_now) as overdue
      from farebox.payment_codes as k
    )
    select m.metric, m.labels, m.value::double precision
    from counted as c
    cross join lateral (values
      ('farebox_payment_codes', '{"status": "active"}'::jsonb, c.active),
      ('farebox_payment_codes', '{"status": "expired"}', c.expired),
      ('farebox_payment_codes', '{"status": "cancelled"}', c.cancelled),
      ('farebox_payment_codes_nearly_spent', '{}', c.nearly_spent),
      ('farebox_payment_codes_overdue', '{}', c.overdue)) as m (metric, labels, value);
end
$$;

comment on function farebox.metrics_codes() is 'Metrics of payment codes and of those near their limit, for Prometheus';

reset role;

-- [copy of db/functions/metrics_storage.sql]
-- Purpose: metrics of tables and indexes: size, dead rows, how often an index is used, how stale the statistics are, bloat.
-- Returns: one row for each sample: metric, labels, value. No table is read; bloat is estimated from statistics, as of the last analyze.
set role farebox_owner;

create function farebox.metrics_storage()
returns table (metric text, labels jsonb, value double precision)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
-- Whoever watches must not stand in line: a table that is locked costs this group of metrics, not the whole scrape.
set lock_timeout = '1s'
as $$
begin
  return query
    with relations as materialized (
      select c.oid, c.relname, c.relpages, c.reltuples, case c.relkind when 'i' then 'index' else 'table' end as kind,
        coalesce(x.indrelid, c.oid) as table_oid,
        coalesce(substring(array_to_string(c.reloptions, ',') from 'fillfactor=(\d+)')::int, case c.relkind when 'i' then 90 else 100 end) as fillfactor,
        case c.relkind when 'i' then x.indkey::int2[] else (
          select array_agg(a.attnum) from pg_attribute as a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped) end as columns
      from pg_class as c
      left join pg_index as x on x.indexrelid = c.oid
      where c.relnamespace = 'farebox'::regnamespace and c.relkind in ('r', 'i')
    ),
    widths as (
      select r.oid, count(w.avg_width) as known, sum(w.avg_width * (1 - w.null_frac)) as width
      from relations as r
      cross join lateral unnest(r.columns) as u (attnum)
      join pg_class as c on c.oid = r.table_oid
      join pg_attribute as a on a.attrelid = r.table_oid and a.attnum = u.attnum
      left join pg_stats as w on w.schemaname = 'farebox' and w.tablename = c.relname and w.attname = a.attname and not w.inherited
      group by r.oid
    ),
    -- A heap row: header of 24 bytes and line pointer of 4, aligned; an index entry: header of 8 and line pointer of 4, aligned.
    needed as (
      select r.oid, r.kind, r.relname, r.relpages,
        r.reltuples * (case r.kind when 'index' then 12 else 28 end + ceil(w.width / 8) * 8) / (8168 * r.fillfactor / 100.0) as pages
      from relations as r
      join widths as w on w.oid = r.oid
      where w.known = cardinality(r.columns) and r.relpages > 0 and r.reltuples >= 0
    )
    select 'farebox_relation_bytes', jsonb_build_object('relation', r.relname, 'kind', r.kind), pg_total_relation_size(r.oid)::double precision
    from relations as r
    where r.kind = 'index'
    union all
    select 'farebox_relation_bytes', jsonb_build_object('relation', r.relname, 'kind', r.kind), pg_table_size(r.oid)::double precision
    from relations as r
    where r.kind = 'table'

    union all
    select 'farebox_bloat_ratio', jsonb_build_object('relation', n.relname, 'kind', n.kind),
      greatest(1 - n.pages / n.relpages, 0)::double precision
    from needed as n

    union all
    select m.metric, jsonb_build_object('table', s.relname), m.value::double precision
    from pg_stat_all_tables as s
    cross join lateral (values
      ('farebox_dead_rows', s.n_dead_tup),
      ('farebox_live_rows', s.n_live_tup),
      ('farebox_rows_changed_since_analyze', s.n_mod_since_analyze)) as m (metric, value)
    where s.schemaname = 'farebox'

    union all
    select 'farebox_last_vacuum_timestamp_seconds', jsonb_build_object('table', s.relname),
      extract(epoch from greatest(s.last_vacuum, s.last_autovacuum))::double precision
    from pg_stat_all_tables as s
    where s.schemaname = 'farebox' and greatest(s.last_vacuum, s.last_autovacuum) is not null

    union all
    select 'farebox_index_scans_total', jsonb_build_object('index', s.indexrelname, 'table', s.relname), s.idx_scan::double precision
    from pg_stat_all_indexes as s
    where s.schemaname = 'farebox';
end
$$;

comment on function farebox.metrics_storage() is 'Metrics of tables, indexes and their bloat, for Prometheus';

reset role;

-- [copy of db/functions/metrics_server.sql]
-- Purpose: metrics of the server: connections against the limit, workers, locks, old transactions and snapshots, deadlocks, ids.
-- Returns: one row for each sample: metric, labels, value.
--   Runs with the caller's rights: ages and states of other logins' sessions show to members of pg_monitor only.
set role farebox_owner;

create function farebox.metrics_server()
returns table (metric text, labels jsonb, value double precision)
language plpgsql stable security invoker
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
-- Whoever watches must not stand in line: a table that is locked costs this group of metrics, not the whole scrape.
set lock_timeout = '1s'
as $$
begin
  return query
    with sessions as materialized (
      select a.pid, a.datname, a.application_name, a.wait_event_type, a.xact_start, a.backend_xmin, coalesce(a.state, 'unknown') as state
      from pg_stat_activity as a
      where a.backend_type = 'client backend'
    )
    select 'farebox_connections', jsonb_build_object('state', s.state), count(*)::double precision from sessions as s group by s.state

    union all
    select 'farebox_connections_limit', '{}'::jsonb,
      (current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
        - coalesce(current_setting('reserved_connections', true)::int, 0))::double precision

    union all
    select m.metric, '{}', m.value
    from (
      select
        count(*) filter (where s.application_name like 'farebox worker%' and s.datname = current_database()) as workers,
        count(*) filter (where s.wait_event_type = 'Lock') as blocked,
        coalesce(extract(epoch from clock_timestamp() - min(s.xact_start) filter (where s.pid <> pg_backend_pid())), 0) as oldest_transaction
      from sessions as s) as s
    cross join lateral (values
      ('farebox_workers', s.workers::double precision),
      ('farebox_blocked_sessions', s.blocked::double precision),
      ('farebox_oldest_transaction_seconds', s.oldest_transaction::double precision)) as m (metric, value)

    union all
    select 'farebox_oldest_snapshot_xids', '{}', coalesce(max(age(held.xmin)), 0)::double precision
    from (
      select s.backend_xmin from sessions as s where s.pid <> pg_backend_pid()
      union all
      select unnest(array[l.xmin, l.catalog_xmin]) from pg_replication_slots as l
      union all
      select p.transaction from pg_prepared_xacts as p) as held (xmin)

    union all
    select 'farebox_blocked_seconds', '{}',
      coalesce(extract(epoch from clock_timestamp() - min(l.waitstart)), 0)::double precision
    from pg_locks as l
    where not l.granted

    union all
    select 'farebox_prepared_transactions', '{}', count(*)::double precision from pg_prepared_xacts

    union all
    select m.metric, '{}', m.value
    from pg_stat_database as d
    cross join lateral (values
      ('farebox_commits_total', d.xact_commit::double precision),
      ('farebox_rollbacks_total', d.xact_rollback::double precision),
      ('farebox_deadlocks_total', d.deadlocks::double precision),
      ('farebox_blocks_read_total', d.blks_read::double precision),
      ('farebox_blocks_hit_total', d.blks_hit::double precision)) as m (metric, value)
    where d.datname = current_database()

    union all
    select 'farebox_oldest_xid_age', '{}', age(d.datfrozenxid)::double precision
    from pg_database as d
    where d.datname = current_database()

    union all
    select 'farebox_slot_retained_bytes', jsonb_build_object('slot', l.slot_name), pg_wal_lsn_diff(pg_current_wal_lsn(), l.restart_lsn)::double precision
    from pg_replication_slots as l
    where not pg_is_in_recovery() and l.restart_lsn is not null;
end
$$;

comment on function farebox.metrics_server() is 'Metrics of connections, locks, snapshots and transaction ids, for Prometheus';

reset role;

-- [copy of db/functions/metrics_activity.sql]
-- Purpose: who sells now, for people who watch: the companies and payment codes of the newest tickets, and who waits in the queue.
-- Parameters: p_tickets, how many of the newest tickets to look at, 1 to 10,000.
-- Returns: kind (company, code), its id and name; tickets of the sample; a code's used and total uses; a company's queued requests
--   and the age of its oldest. The most tickets first.  Raises: TK003.
set role farebox_owner;

create function farebox.metrics_activity(p_tickets int default 1000)
returns table (kind text, id uuid, name text, tickets bigint, used int, total int, queued bigint, oldest_age interval)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
-- Whoever watches must not stand in line: a table that is locked costs this group of metrics, not the whole scrape.
set lock_timeout = '1s'
as $$
begin
  perform farebox._check_limit(p_tickets, 10000);

  return query
    with newest as materialized (
      -- Ids are in order of time.
      select t.company_id, t.payment_code_id from farebox.tickets as t order by t.id desc limit p_tickets
    ),
    sellers as (select n.company_id, count(*) as tickets from newest as n group by n.company_id),
    waiting as (
      select q.company_id, count(*) as requests, min(q.enqueued_at) as oldest_at from farebox.ticket_queue as q group by q.company_id
    )
    (
      select 'company', coalesce(s.company_id, w.company_id), coalesce(c.name, 'unknown'), coalesce(s.tickets, 0), null::int, null::int,
        coalesce(w.requests, 0), farebox._now() - w.oldest_at
      from sellers as s
      full join waiting as w on w.company_id = s.company_id
      left join farebox.companies as c on c.id = coalesce(s.company_id, w.company_id)

      union all
      select 'code', k.id, k.code, u.tickets, k.used_tickets, k.total_tickets, null, null
      from (select n.payment_code_id, count(*) as tickets from newest as n group by n.payment_code_id) as u
      join farebox.payment_codes as k on k.id = u.payment_code_id
    )
    order by 1, 4 desc, 3;
end
$$;

comment on function farebox.metrics_activity(int) is 'The companies and payment codes of the newest tickets, and who waits in the queue';

reset role;

-- [copy of db/functions/purge_unapplied_payments.sql]
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

-- [copy of db/functions/purge_dead_requests.sql]
-- Purpose: removes queued requests that ended in a conflict, or for a payment of another company, and were last seen long ago.
--   Those tell of no money without a ticket. Whatever else died stays until a person drops it (drop_queued_requests).
-- Parameters: p_before, those last seen before; p_limit, 1 to 10,000.  Returns: how many it removed; call again while that is p_limit.
-- Raises: TK003.  Locks and writes: ticket_queue_dead; those in use right now are left to the next call.
set role farebox_owner;

create function farebox.purge_dead_requests(p_before timestamptz, p_limit int default 1000)
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
      hint = 'pass a time that is past: what was last seen before it is removed';
  end if;

  delete from farebox.ticket_queue_dead as d
  where d.id = any (array(
    select p.id from farebox.ticket_queue_dead as p
    where p.last_seen_at < p_before and p.reason in ('conflict', 'transaction_id_unavailable')
    order by p.last_seen_at, p.id
    limit p_limit
    for update skip locked));
  get diagnostics v_purged = row_count;
  return v_purged;
end
$$;

comment on function farebox.purge_dead_requests(timestamptz, int) is
  'Removes queued requests that ended in a conflict or belong to others and were last seen before a time; how many';

reset role;

-- [copy of db/functions/analyze_tables.sql]
-- Purpose: brings the planner's statistics up to date where much has changed; for logins that may not analyze the tables themselves.
-- Parameters: p_share, of a table's rows that have changed since, 0 to 1 (0 = all tables).  Returns: the tables it analyzed.
-- Raises: TK003.  Locks: the tables against vacuum and other analyzes; a table that is locked so is left out.
set role farebox_owner;

create function farebox.analyze_tables(p_share double precision default 0.1)
returns setof text
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
declare
  v_table text;
begin
  if p_share is null or p_share not between 0 and 1 then
    raise exception using errcode = 'TK003',
      message = format('the share is %s', coalesce(p_share::text, 'null')), hint = 'pass a share from 0 to 1';
  end if;

  -- A loop, because ANALYZE takes names, not rows. In order of names, so that two callers cannot wait for each other.
  for v_table in
    select s.relname::text
    from pg_stat_all_tables as s
    where s.schemaname = 'farebox'
      and (p_share = 0 or s.n_mod_since_analyze > 50 + p_share * s.n_live_tup)
    order by s.relname
  loop
    execute format('analyze (skip_locked) farebox.%I', v_table);
    return next v_table;
  end loop;
end
$$;

comment on function farebox.analyze_tables(double precision) is 'Brings the statistics of tables that have changed up to date; their names';

reset role;

-- [copy of db/functions/bind_company_login.sql]
-- Purpose: binds a database login to the one company it may read. The login must exist and be in farebox_company to use it.
-- Parameters: p_login, a role; p_company_id, null = unbind.  Returns: nothing.  Raises: 42704 no such role, 23503 no such company.
set role farebox_owner;

create function farebox.bind_company_login(p_login name, p_company_id uuid)
returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
-- As create_tickets: the plans must not hang on statistics.
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
set jit = off
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
set standard_conforming_strings = on
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

-- [copy of db/functions/_follow_code_terms.sql]
-- Purpose: the status of a code follows its limit and its end: lowered to what is used it is spent; a code that was spent, or whose time
--   was over, sells again once it has uses and time left. A code that was expired or cancelled by hand stays so.
-- Returns: the row.  Fires before a code is inserted or its total_tickets or expires_at is set, or a spent one is called active; charging a
--   code sets its status itself.
set role farebox_owner;

create function farebox._follow_code_terms()
returns trigger
language plpgsql security invoker
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
begin
  if new.status = 'active' and new.used_tickets >= new.total_tickets then
    new.status := 'expired';
  elsif tg_op = 'UPDATE' and new.status = 'expired' and old.status = 'expired'
    and (old.used_tickets >= old.total_tickets or old.expires_at <= farebox._now())
    and new.used_tickets < new.total_tickets and (new.expires_at > farebox._now()) is not false
  then
    new.status := 'active';
  end if;
  return new;
end
$$;

comment on function farebox._follow_code_terms() is 'Trigger: the status of a payment code follows its limit and its end';

create trigger payment_codes_status_follows_terms
before insert or update of total_tickets, expires_at on farebox.payment_codes
for each row execute function farebox._follow_code_terms();
comment on trigger payment_codes_status_follows_terms on farebox.payment_codes is 'The status of a code follows its limit and its end';

-- Charging a code sets its status too, so the condition stands outside of the function: a charge never meets it.
create trigger payment_codes_spent_is_not_active
before update of status on farebox.payment_codes
for each row when (new.status = 'active' and new.used_tickets >= new.total_tickets)
execute function farebox._follow_code_terms();
comment on trigger payment_codes_spent_is_not_active on farebox.payment_codes is 'A spent code cannot be called active by hand';

reset role;

-- [copy of db/functions/_refuse_delete_when_sold.sql]
-- Purpose: what a ticket names cannot be deleted. In place of foreign keys on tickets, which would lock the same few rows for each ticket.
-- Raises: 23503; TK004 unless READ COMMITTED: an older snapshot would not see the latest tickets.
-- Locks: tickets (share), before any row: create_tickets takes its lock on the table before it reads, so one waits for the other.
set role farebox_owner;

create function farebox._refuse_delete_when_sold()
returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
declare
  v_is_sold boolean;
begin
  if tg_level = 'STATEMENT' then
    if current_setting('transaction_isolation') not like 'read %' then
      raise exception using errcode = 'TK004',
        message = format('rows of %s cannot be deleted in isolation level %s', tg_table_name, current_setting('transaction_isolation')),
        hint = 'delete them in a transaction of isolation level read committed';
    end if;
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
set standard_conforming_strings = on
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
