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
