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
