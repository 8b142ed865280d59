-- The internal rules that every function shares: texts, numbers, phones, UUIDs, times, commissions, the state of a code.
begin;
select plan(168);

-- _trimmed: white space off both ends, Unicode's too.
select is(farebox._trimmed(c.given), c.trimmed, format('_trimmed(%s)', to_json(left(c.given, 20))))
from (values
  ('text', 'text'), (' text ', 'text'), (E'\t\n\r\f\x0btext\n', 'text'), (U&'\00A0\2003text\3000\2028', 'text'), ('two words', 'two words'),
  (E' in\tside ', E'in\tside'), ('', ''), ('   ', ''), (U&'\200Btext', U&'\200Btext'), (null, null), (repeat(' ', 1000000) || 'x', 'x')
) as c(given, trimmed);

-- _phone: + and 7 to 15 digits, no leading 0, after spaces, dots, dashes and parentheses have left.
select is(farebox._phone(c.given), c.phone, format('_phone(%s)', to_json(left(c.given, 30))))
from (values
  ('+23276123456', '+23276123456'), (' +232 (76) 123-45.6 ', '+23276123456'), ('(+232)76123456', '+23276123456'), ('+1234567', '+1234567'),
  ('+123456789012345', '+123456789012345'), ('+123456', null), ('+1234567890123456', null), ('+0234567', null), ('23276123456', null),
  ('0023276123456', null), ('++23276123456', null), ('+23276***456', null), ('+232 76 123 456 ext', null), ('+٢٣٢٧٦١٢٣٤٥٦', null),
  ('+12 34-56.7', '+1234567'), ('+1234 5678-9012.345', '+123456789012345'), ('+12 34-56', null), ('+1234 5678-9012.3456', null),
  (E'+23276\n123456', null), ('+', null), ('', null), (null, null), ('+' || repeat('1', 1000000), null)
) as c(given, phone);

-- _amount: an integer from 1 to 10^12, by its value.
select is(farebox._amount(c.given), c.amount, format('_amount(%s)', to_json(left(c.given, 30))))
from (values
  ('5000', 5000), ('5000.0', 5000), ('5e3', 5000), ('5E+3', 5000), ('50000e-1', 5000), (' +5000 ', 5000), ('0005000', 5000), ('5000.', 5000), ('.5e4', 5000),
  ('1', 1), ('1000000000000', 1000000000000), ('999999999999', 999999999999), ('1e12', 1000000000000), ('0', null), ('-0', null), ('-5000', null),
  ('0.5', null), ('5000.5', null), ('1000000000001', null), ('1e13', null), ('1e400', null), ('1e99999999999', null), ('1e-400', null),
  ('NaN', null), ('Infinity', null), ('0x1388', null), ('0b1', null), ('0o7', null), ('5_000', null), ('5,000', null), ('5 000', null), ('SLE 50', null),
  ('5000-', null), ('e3', null), ('.', null), ('٥٠٠٠', null), ('true', null), ('', null), (null, null), (repeat('1', 1000000), null),
  (repeat('0', 2000) || '1', null)
) as c(given, amount);

-- _number: any number by its value, in a range, with no more decimals than allowed.
select is(farebox._number(c.given, 0, 1, 4), c.number, format('_number(%s, 0, 1, 4)', to_json(left(c.given, 30))))
from (values
  ('0', 0), ('1', 1), ('0.05', 0.05), ('.05', 0.05), ('5e-2', 0.05), ('0.0500000', 0.05), ('0.1234', 0.1234), ('0.12345', null), ('1.0001', null),
  ('-0.0001', null), ('-0', 0), ('5%', null), ('0,05', null), ('NaN', null), ('', null), (null, null)
) as c(given, number);

-- _uuid: in any form PostgreSQL reads.
select is(farebox._uuid(c.given), case when c.is_one then 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid end, format('_uuid(%s)', to_json(left(c.given, 45))))
from (values
  ('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', true), ('A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', true), ('{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}', true),
  ('a0eebc999c0b4ef8bb6d6bb9bd380a11', true), ('a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11', true), (E' a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11\n', true),
  ('{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', false), ('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1', false), ('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a111', false),
  ('g0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', false), ('urn:uuid:a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', false), ('', false), (null, false),
  (repeat('a', 1000000), false)
) as c(given, is_one);

-- _timestamp: ISO 8601 with an offset; nothing that hangs on the session's settings.
set local timezone = 'Asia/Tokyo';
set local datestyle = 'SQL, DMY';
select is(farebox._timestamp(c.given), c.moment::timestamptz, format('_timestamp(%s)', to_json(c.given)))
from (values
  ('2025-06-01T08:00:00Z', '2025-06-01 08:00:00+00'), ('2025-06-01t08:00z', '2025-06-01 08:00:00+00'), ('2025-06-01 09:00:00.25+01:00', '2025-06-01 08:00:00.25+00'),
  ('2025-06-01T02:30:00-0530', '2025-06-01 08:00:00+00'), ('2025-06-01T10:00:00 +02', '2025-06-01 08:00:00+00'), ('2024-02-29T00:00:00Z', '2024-02-29 00:00:00+00'),
  ('2025-02-29T00:00:00Z', null), ('2025-13-01T00:00:00Z', null), ('2025-06-01T25:00:00Z', null), ('2025-06-01T08:00:00', null), ('2025-06-01', null),
  ('01/06/2025 08:00:00Z', null), ('2025-06-01T08:00:00 UTC', null), ('2025-06-01T08:00:00 Africa/Freetown', null), ('now', null), ('tomorrow', null),
  ('infinity', null), ('0000-01-01T00:00:00Z', null), ('', null), (null, null)
) as c(given, moment);

-- _commission: amount x rate, rounded half away from zero.
select is(farebox._commission(c.amount, c.rate), c.commission, format('_commission(%s, %s)', c.amount, c.rate))
from (values
  (5000::bigint, 0.05, 250::bigint), (10, 0.05, 1), (9, 0.05, 0), (30, 0.05, 2), (50, 0.05, 3), (70, 0.05, 4), (1, 0.4999, 0), (1, 0.5, 1), (3, 0.5, 2), (5, 0.5, 3),
  (1000000000000, 1, 1000000000000), (1000000000000, 0.0001, 100000000), (999999999999, 0.3333, 333300000000), (7, 0, 0), (7, 1, 7), (-10, 0.05, -1), (-50, 0.05, -3)
) as c(amount, rate, commission);

-- _code_refusal: the first reason against a code.
select is(farebox._code_refusal(c.status, c.used, c.total, c.expires_at::timestamptz, '2025-06-01 08:00:00+00'), c.reason, c.what)
from (values
  ('active', 0, 1, null, null, 'a code with a use left sells'),
  ('active', 0, 1, '2025-06-01 08:00:00.000001+00', null, 'until the moment of its end'),
  ('active', 0, 1, '2025-06-01 08:00:00+00', 'code_expired', 'not from that moment on'),
  ('expired', 0, 1, null, 'code_expired', 'nor when it was expired with uses left'),
  ('expired', 1, 1, null, 'code_exhausted', 'nor when it is spent'),
  ('active', 1, 1, null, 'code_exhausted', 'whatever its status says'),
  ('expired', 1, 1, '2025-06-01 08:00:00+00', 'code_expired', 'spent and over: over'),
  ('cancelled', 0, 1, null, 'code_cancelled', 'nor when it was cancelled'),
  ('cancelled', 1, 1, '2025-06-01 08:00:00+00', 'code_cancelled', 'cancelled, spent and over: cancelled')
) as c(status, used, total, expires_at, reason, what);

-- _uuid_v7: version 7, in the order of time.
create temp table drawn as
select clock_timestamp() as before, farebox._uuid_v7() as id, clock_timestamp() as after from generate_series(1, 1000);
select is(count(distinct id), 1000::bigint, '_uuid_v7: never the same twice') from drawn;
select ok(bool_and(substr(id::text, 15, 1) = '7' and substr(id::text, 20, 1) in ('8', '9', 'a', 'b')), '_uuid_v7: version 7, variant RFC 9562') from drawn;
select ok(bool_and(u.milliseconds between extract(epoch from before) * 1000 - 1 and extract(epoch from after) * 1000 + 1),
  '_uuid_v7: begins with the milliseconds since 1970')
from drawn cross join lateral (select ('x' || lpad(left(replace(id::text, '-', ''), 12), 16, '0'))::bit(64)::bigint as milliseconds) as u;

-- _batch_id, _own_requests: only a shard (db/router) lets its router name a batch, and refuses payments.
select set_config('farebox.batch_id', '01970000-0000-7000-8000-000000000000', true);
select ok(i.id <> '01970000-0000-7000-8000-000000000000' and substr(i.id::text, 15, 1) = '7', '_batch_id: a new UUID of version 7, whatever a session has set')
from (select farebox._batch_id() as id) as i;
select isnt(farebox._batch_id(), farebox._batch_id(), '_batch_id: another one each time');
select is(farebox._own_requests(r.requests), r.requests, '_own_requests: refuses nothing')
from (select array[row(1, null, 'pay-1', 'c0000000-0000-7000-8000-000000000001', null, null, null, null, null, 5000, null, null, null),
  row(2, null, null, null, null, null, null, null, null, null, null, 'request_invalid', null)]::farebox._ticket_request[] as requests) as r;

-- _clean_batch: strings that no text can hold are refused wherever they stand, whatever stands beside them; and none grows.
select is(c.cleaned ->> 'monime_otp', '12"\34', '_clean_batch: a string beside unreadable ones is as it was')
from (select farebox._clean_batch(
  '[{"\u0000": "\"\u0000\\", "monime_otp": "12\"\\34", "a\ud800\"": "\\", "payment_code": "\\\"\udc00\ud83d\ude00\""}]') -> 0) as c(cleaned);
select ok(octet_length(farebox._clean_batch(json_build_array(('{"monime_otp": "' || repeat('\u0000', 1000) || '"}')::json))::text) < 1000,
  '_clean_batch: a thousand escapes take no more room than one');

-- _shown: what the session's client_encoding lacks is told as ?, so that the answer arrives.
set local client_encoding = 'LATIN1';
select is(farebox._shown(c.given), c.shown, format('_shown(%s)', ascii(c.given)))
from (values ('pay-1', 'pay-1'), (U&'\00E9', U&'\00E9'), (U&'\017Epay', '?pay'), (U&'+232\0660', '+232?'), (U&'\017E\00E9', '??'), ('', ''), (null, null)) as c(given, shown);
set local client_encoding = 'UTF8';
select is(farebox._shown(U&'\017E'), U&'\017E', '_shown: a session of UTF8 gets any text as it is');

-- _now: the moment of the call, not of the transaction.
select ok(farebox._now() > now() and farebox._now() <= clock_timestamp(), '_now: the clock goes on inside a transaction');

select * from finish(true);
rollback;
