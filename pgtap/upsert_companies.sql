-- upsert_companies: adds and changes companies; one outcome for each element, in order.
begin;
select plan(64);

create or replace function farebox._now() returns timestamptz
language sql volatile parallel safe as $$ select '2025-06-01 08:00:00+00'::timestamptz $$;

-- What became of each element, in words.
create function pg_temp.outcomes(p_batch text) returns text
language sql volatile as $$
  select string_agg(concat_ws(' ', o.outcome, o.reason), ', ' order by o.ordinal) from farebox.upsert_companies(p_batch::json) as o
$$;
-- The company as it is stored.
create function pg_temp.stored(p_id uuid) returns text
language sql volatile as $$
  select format('%s|%s|%s|%s|%s', c.name, c.monime_account_id, c.commission_rate, c.status, c.created_at at time zone 'UTC')
  from farebox.companies as c where c.id = p_id
$$;
-- What a statement raises.
create function pg_temp.raised(p_statement text) returns text
language plpgsql as $$
declare
  v_hint text;
begin
  execute p_statement;
  return 'nothing';
exception when others then
  get stacked diagnostics v_hint = pg_exception_hint;
  return format('%s %s (%s)', sqlstate, sqlerrm, v_hint);
end
$$;

-- Created ------------------------------------------------------------------------------------------------------

create temp table first as
select * from farebox.upsert_companies('[
  {"id": "c0000000-0000-7000-8000-000000000002", "name": " Lion\tMountain\n", "monime_account_id": " acc-2 ", "commission_rate": "0.1", "status": "suspended"},
  {"name": "Cotton Tree", "id": null, "unknown": {}},
  {"id": "c0000000-0000-7000-8000-000000000001", "name": "Ö", "commission_rate": 1e-4},
  {"name": "Cotton Tree"}]');
select results_eq(
  'select ordinal, outcome, reason from first',
  $$values (1, 'created', null::text), (2, 'created', null), (3, 'created', null), (4, 'created', null)$$,
  'new companies, one outcome each, in order');
select is(pg_temp.stored('c0000000-0000-7000-8000-000000000002'), E'Lion\tMountain|acc-2|0.1000|suspended|2025-06-01 08:00:00',
  'texts are trimmed, numbers go by value, the time is the database''s');
select is((select pg_temp.stored(id) from first where ordinal = 2), 'Cotton Tree||0.0500|active|2025-06-01 08:00:00', 'the defaults');
select ok((select bool_and(substr(id::text, 15, 1) = '7') and count(distinct id) = 2 from first where ordinal in (2, 4)),
  'without an id each is a new company, its id a UUID of version 7');
select is_empty($$select * from farebox.upsert_companies('[]')$$, 'an empty batch has no outcomes');

-- Replay -------------------------------------------------------------------------------------------------------

create temp table activity as
select pg_stat_get_xact_tuples_inserted(t.oid) + pg_stat_get_xact_tuples_updated(t.oid) as rows_written
from (select 'farebox.companies'::regclass::oid) as t(oid);
select results_eq(
  $$select o.id::text, o.outcome, o.reason from farebox.upsert_companies('[
    {"id": "C0000000-0000-7000-8000-000000000002", "name": "Lion\tMountain", "monime_account_id": "acc-2", "commission_rate": 0.10, "status": "suspended"},
    {"id": "c0000000-0000-7000-8000-000000000002"}]') as o$$,
  $$values ('c0000000-0000-7000-8000-000000000002', 'unchanged', null::text), ('c0000000-0000-7000-8000-000000000002', 'unchanged', null)$$,
  'the same again, or nothing but the id, changes nothing');
select is(
  pg_stat_get_xact_tuples_inserted('farebox.companies'::regclass) + pg_stat_get_xact_tuples_updated('farebox.companies'::regclass),
  (select rows_written from activity), 'and writes nothing');

-- Updated ------------------------------------------------------------------------------------------------------

select is(
  (select o.outcome from farebox.upsert_companies(json_build_array(
    (jsonb_build_object('id', 'c0000000-0000-7000-8000-000000000002') || c.fields::jsonb)::json)) as o)
    || ': ' || pg_temp.stored('c0000000-0000-7000-8000-000000000002'),
  'updated: ' || c.stored, 'absent keys keep what is stored: ' || c.fields)
from (values
  ('{"name": "Lion"}', 'Lion|acc-2|0.1000|suspended|2025-06-01 08:00:00'),
  ('{"monime_account_id": "acc-3"}', 'Lion|acc-3|0.1000|suspended|2025-06-01 08:00:00'),
  ('{"monime_account_id": null}', 'Lion||0.1000|suspended|2025-06-01 08:00:00'),
  ('{"commission_rate": 0}', 'Lion||0.0000|suspended|2025-06-01 08:00:00'),
  ('{"status": "active"}', 'Lion||0.0000|active|2025-06-01 08:00:00'),
  ('{"name": "L", "monime_account_id": "a", "commission_rate": 1, "status": "suspended"}', 'L|a|1.0000|suspended|2025-06-01 08:00:00')
) as c(fields, stored);
select is(pg_temp.outcomes('[
  {"id": "c0000000-0000-7000-8000-000000000003", "name": "A"},
  {"id": "c0000000-0000-7000-8000-000000000001", "name": "Z"},
  {"id": "c0000000-0000-7000-8000-000000000003", "name": "B"},
  {"id": "c0000000-0000-7000-8000-000000000003", "status": "no such status"},
  {"id": "c0000000-0000-7000-8000-000000000003", "name": "B", "status": "active"}]'),
  'created, updated, updated, rejected status_invalid, unchanged', 'a batch means the same as its elements one after the other');
select is(pg_temp.stored('c0000000-0000-7000-8000-000000000003'), 'B||0.0500|active|2025-06-01 08:00:00', 'the last change stands');

-- Rejected -----------------------------------------------------------------------------------------------------

create temp table before as select count(*) as companies from farebox.companies;
select is(pg_temp.outcomes(format('[%s, {"id": "c0000000-0000-7000-8000-000000000003"}]', c.element)),
  'rejected ' || c.reason || ', unchanged', c.reason || ': ' || left(c.element, 100))
from (values
  ('element_invalid', 'null'), ('element_invalid', '5'), ('element_invalid', '"Cotton Tree"'), ('element_invalid', '[]'),
  ('element_invalid', '{"name": "Cotton\u0000Tree"}'), ('element_invalid', '{"name": "N", "note": "\ud83d"}'),
  ('element_invalid', '{"name": "N", "commission_rate": 1e999999}'),
  ('company_id_invalid', '{"id": "", "name": "N"}'), ('company_id_invalid', '{"id": 1, "name": "N"}'),
  ('company_id_invalid', '{"id": "c0000000", "name": "N"}'), ('company_id_invalid', '{"id": {}, "name": "N"}'),
  ('name_invalid', '{}'), ('name_invalid', '{"name": null}'), ('name_invalid', '{"name": " \t\u00a0"}'), ('name_invalid', '{"name": 5}'),
  ('name_invalid', format('{"name": "%s"}', repeat('ö', 201))), ('name_invalid', format('{"name": "%s"}', repeat('x', 1000000))),
  ('monime_account_id_invalid', '{"name": "N", "monime_account_id": ""}'),
  ('monime_account_id_invalid', '{"name": "N", "monime_account_id": 5}'),
  ('monime_account_id_invalid', format('{"name": "N", "monime_account_id": "%s"}', repeat('x', 65))),
  ('commission_rate_invalid', '{"name": "N", "commission_rate": -0.0001}'),
  ('commission_rate_invalid', '{"name": "N", "commission_rate": 1.0001}'),
  ('commission_rate_invalid', '{"name": "N", "commission_rate": 0.12345}'),
  ('commission_rate_invalid', '{"name": "N", "commission_rate": "NaN"}'),
  ('commission_rate_invalid', '{"name": "N", "commission_rate": null}'),
  ('commission_rate_invalid', '{"name": "N", "commission_rate": true}'),
  ('status_invalid', '{"name": "N", "status": "ACTIVE"}'), ('status_invalid', '{"name": "N", "status": null}'),
  ('status_invalid', '{"name": "N", "status": 1}'), ('status_invalid', '{"name": "N", "status": "inactive"}')
) as c(reason, element);
select is((select count(*) from farebox.companies), (select companies from before), 'what is rejected is not stored');
select is(pg_temp.outcomes(format('[{"id": "c0000000-0000-7000-8000-000000000003", "name": "%s", "monime_account_id": "%s"}]',
  repeat('ö', 200), repeat('ö', 64))), 'updated', 'accepted: the longest name and account');
select results_eq(
  $$select o.ordinal, o.id::text, o.outcome from farebox.upsert_companies('[
    {"id": "c0000000-0000-7000-8000-000000000003", "name": ""}, {"name": ""}]') as o$$,
  $$values (1, 'c0000000-0000-7000-8000-000000000003', 'rejected'), (2, null::text, 'rejected')$$,
  'a rejected element has the id it came with');

-- Everything is wrong; each line names the reason given and corrects one field for the next.
select is(
  pg_temp.outcomes('[' || ('{"id": "x", "name": "", "monime_account_id": "", "commission_rate": "x", "status": "x"}'::jsonb
    || coalesce(jsonb_object_agg(c.field, c.value) over (order by c.place rows between unbounded preceding and 1 preceding), '{}'))::text || ']'),
  'rejected ' || c.reason, format('precedence %s: %s', c.place, c.reason))
from (values
  (1, 'company_id_invalid', 'id', 'c0000000-0000-7000-8000-000000000004'),
  (2, 'name_invalid', 'name', 'N'),
  (3, 'monime_account_id_invalid', 'monime_account_id', 'a'),
  (4, 'commission_rate_invalid', 'commission_rate', '1'),
  (5, 'status_invalid', null, null)
) as c(place, reason, field, value);

-- Misuse -------------------------------------------------------------------------------------------------------

select is(pg_temp.raised(format('select farebox.upsert_companies(%L)', c.batch)),
  'TK001 the batch is not a JSON array (pass an array of objects: [{"company_id": …}, …])', 'TK001: ' || coalesce(c.batch, 'null'))
from (values (null), ('null'), ('{}'), ('"[]"'), ('5')) as c(batch);
select is(pg_temp.raised($$select farebox.upsert_companies((select json_agg(1) from generate_series(1, 10001)))$$),
  'TK002 the batch is longer than 10,000 (send it in batches of 10,000 or fewer)', 'TK002: 10,001 elements');

-- Privileges ---------------------------------------------------------------------------------------------------

select lives_ok($$set local role farebox_admin; select farebox.upsert_companies('[{"name": "N"}]'); reset role$$, 'farebox_admin may');
select throws_ok(format('set local role %I; select farebox.upsert_companies(''[]'')', r.role), '42501', null, r.role || ' may not')
from unnest(array['farebox_app', 'farebox_worker', 'farebox_company', 'pg_monitor']) as r(role);

select * from finish(true);
rollback;
