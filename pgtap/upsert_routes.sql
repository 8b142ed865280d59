-- upsert_routes: adds and changes routes; one outcome for each element, in order.
begin;
select plan(84);

create or replace function farebox._now() returns timestamptz
language sql volatile parallel safe as $$ select '2025-06-01 08:00:00+00'::timestamptz $$;

insert into farebox.companies (id, name) values
  ('c0000000-0000-7000-8000-000000000001', 'Cotton Tree'), ('c0000000-0000-7000-8000-000000000002', 'Lion Mountain');

-- A new route, some of its fields replaced.
create function pg_temp.route(p_fields text default '{}') returns text
language sql stable as $$
  select (jsonb_build_object('company_id', 'c0000000-0000-7000-8000-000000000001', 'name', 'Freetown - Bo', 'origin', 'Freetown',
    'destination', 'Bo', 'fare', 5000) || p_fields::jsonb)::text
$$;
-- What became of each element, in words.
create function pg_temp.outcomes(variadic p_elements text[]) returns text
language sql volatile as $$
  select string_agg(concat_ws(' ', o.outcome, o.reason), ', ' order by o.ordinal)
  from farebox.upsert_routes(format('[%s]', array_to_string(p_elements, ','))::json) as o
$$;
-- The route as it is stored.
create function pg_temp.stored(p_id uuid) returns text
language sql volatile as $$
  select format('%s|%s|%s|%s|%s|%s|%s', right(r.company_id::text, 1), r.name, r.origin, r.destination, r.fare, r.status,
    r.created_at at time zone 'UTC')
  from farebox.routes as r where r.id = p_id
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
select * from farebox.upsert_routes(format('[%s]', concat_ws(',',
  pg_temp.route('{"id": "d0000000-0000-7000-8000-000000000002", "name": " Freetown - Kenema ", "destination": "Kenema\n", "fare": "7e3", "status": "inactive"}'),
  pg_temp.route('{"id": null, "unknown": {}}'),
  pg_temp.route('{"id": "d0000000-0000-7000-8000-000000000001"}'),
  pg_temp.route()))::json);
select results_eq(
  'select ordinal, outcome, reason from first',
  $$values (1, 'created', null::text), (2, 'created', null), (3, 'created', null), (4, 'created', null)$$,
  'new routes, one outcome each, in order');
select is(pg_temp.stored('d0000000-0000-7000-8000-000000000002'),
  '1|Freetown - Kenema|Freetown|Kenema|7000|inactive|2025-06-01 08:00:00',
  'texts are trimmed, numbers go by value, the time is the database''s');
select is((select pg_temp.stored(id) from first where ordinal = 2), '1|Freetown - Bo|Freetown|Bo|5000|active|2025-06-01 08:00:00',
  'a new route is active');
select ok((select bool_and(substr(id::text, 15, 1) = '7') and count(distinct id) = 2 from first where ordinal in (2, 4)),
  'without an id each is a new route, its id a UUID of version 7');
select is_empty($$select * from farebox.upsert_routes('[]')$$, 'an empty batch has no outcomes');
select is(pg_temp.outcomes(pg_temp.route('{"fare": 1}'), pg_temp.route('{"fare": 1000000000000}'),
  pg_temp.route(format('{"name": "%s", "origin": "%1$s", "destination": "%1$s"}', repeat('ö', 200)))),
  'created, created, created', 'accepted: the lowest and the highest fare, the longest texts');

-- Replay -------------------------------------------------------------------------------------------------------

create temp table activity as
select pg_stat_get_xact_tuples_inserted(t.oid) + pg_stat_get_xact_tuples_updated(t.oid) as rows_written
from (select 'farebox.routes'::regclass::oid) as t(oid);
select results_eq(
  $$select o.id::text, o.outcome, o.reason from farebox.upsert_routes(format('[%s, %s]',
    pg_temp.route('{"id": "D0000000-0000-7000-8000-000000000001", "fare": 5000.0, "status": "active"}'),
    '{"id": "d0000000-0000-7000-8000-000000000002", "company_id": "c0000000-0000-7000-8000-000000000001"}')::json) as o$$,
  $$values ('d0000000-0000-7000-8000-000000000001', 'unchanged', null::text), ('d0000000-0000-7000-8000-000000000002', 'unchanged', null)$$,
  'the same again, or nothing but id and company, changes nothing');
select is(
  pg_stat_get_xact_tuples_inserted('farebox.routes'::regclass) + pg_stat_get_xact_tuples_updated('farebox.routes'::regclass),
  (select rows_written from activity), 'and writes nothing');

-- Updated ------------------------------------------------------------------------------------------------------

select is(
  pg_temp.outcomes(('{"id": "d0000000-0000-7000-8000-000000000002", "company_id": "c0000000-0000-7000-8000-000000000001"}'::jsonb
    || c.fields::jsonb)::text) || ': ' || pg_temp.stored('d0000000-0000-7000-8000-000000000002'),
  'updated: ' || c.stored, 'absent keys keep what is stored: ' || c.fields)
from (values
  ('{"name": "To Kenema"}', '1|To Kenema|Freetown|Kenema|7000|inactive|2025-06-01 08:00:00'),
  ('{"origin": "Waterloo"}', '1|To Kenema|Waterloo|Kenema|7000|inactive|2025-06-01 08:00:00'),
  ('{"destination": "Makeni"}', '1|To Kenema|Waterloo|Makeni|7000|inactive|2025-06-01 08:00:00'),
  ('{"fare": 1}', '1|To Kenema|Waterloo|Makeni|1|inactive|2025-06-01 08:00:00'),
  ('{"status": "active"}', '1|To Kenema|Waterloo|Makeni|1|active|2025-06-01 08:00:00'),
  ('{"name": "N", "origin": "O", "destination": "D", "fare": 2, "status": "inactive"}', '1|N|O|D|2|inactive|2025-06-01 08:00:00')
) as c(fields, stored);
select is(
  pg_temp.outcomes(
    pg_temp.route('{"id": "d0000000-0000-7000-8000-000000000003", "name": "A"}'),
    pg_temp.route('{"id": "d0000000-0000-7000-8000-000000000001", "name": "Z"}'),
    pg_temp.route('{"id": "d0000000-0000-7000-8000-000000000003", "name": "B"}'),
    pg_temp.route('{"id": "d0000000-0000-7000-8000-000000000003", "company_id": "c0000000-0000-7000-8000-000000000002"}'),
    pg_temp.route('{"id": "d0000000-0000-7000-8000-000000000003", "name": "B"}')),
  'created, updated, updated, rejected company_mismatch, unchanged', 'a batch means the same as its elements one after the other');
select is(pg_temp.stored('d0000000-0000-7000-8000-000000000003'), '1|B|Freetown|Bo|5000|active|2025-06-01 08:00:00',
  'the last change stands');

-- Rejected -----------------------------------------------------------------------------------------------------

create temp table before as select count(*) as routes from farebox.routes;
select is(
  pg_temp.outcomes(case when c.element ~ '^\{' then pg_temp.route(c.element) else c.element end,
    '{"id": "d0000000-0000-7000-8000-000000000003", "company_id": "c0000000-0000-7000-8000-000000000001"}'),
  'rejected ' || c.reason || ', unchanged', c.reason || ': ' || left(c.element, 100))
from (values
  ('element_invalid', 'null'), ('element_invalid', '5'), ('element_invalid', '"Freetown - Bo"'), ('element_invalid', '[]'),
  ('element_invalid', ' {"name": "Freetown\u0000Bo"}'), ('element_invalid', ' {"note": "\ud83d"}'), ('element_invalid', ' {"fare": 1e999999}'),
  ('route_id_invalid', '{"id": ""}'), ('route_id_invalid', '{"id": 1}'), ('route_id_invalid', '{"id": "d0000000"}'), ('route_id_invalid', '{"id": []}'),
  ('company_id_invalid', '{"company_id": null}'), ('company_id_invalid', '{"company_id": ""}'), ('company_id_invalid', '{"company_id": 1}'),
  ('company_id_invalid', ' {"name": "N", "origin": "O", "destination": "D", "fare": 2}'),
  ('name_invalid', '{"name": null}'), ('name_invalid', '{"name": " "}'), ('name_invalid', '{"name": 5}'),
  ('name_invalid', format('{"name": "%s"}', repeat('ö', 201))), ('name_invalid', format('{"name": "%s"}', repeat('x', 1000000))),
  ('name_invalid', ' {"company_id": "c0000000-0000-7000-8000-000000000001", "origin": "O", "destination": "D", "fare": 2}'),
  ('origin_invalid', '{"origin": null}'), ('origin_invalid', '{"origin": ""}'), ('origin_invalid', '{"origin": []}'),
  ('origin_invalid', format('{"origin": "%s"}', repeat('ö', 201))),
  ('origin_invalid', ' {"company_id": "c0000000-0000-7000-8000-000000000001", "name": "N", "destination": "D", "fare": 2}'),
  ('destination_invalid', '{"destination": null}'), ('destination_invalid', '{"destination": "\t"}'), ('destination_invalid', '{"destination": true}'),
  ('destination_invalid', format('{"destination": "%s"}', repeat('ö', 201))),
  ('destination_invalid', ' {"company_id": "c0000000-0000-7000-8000-000000000001", "name": "N", "origin": "O", "fare": 2}'),
  ('fare_invalid', '{"fare": null}'), ('fare_invalid', '{"fare": 0}'), ('fare_invalid', '{"fare": -1}'), ('fare_invalid', '{"fare": 0.5}'),
  ('fare_invalid', '{"fare": 1000000000001}'), ('fare_invalid', '{"fare": "NaN"}'), ('fare_invalid', '{"fare": "free"}'), ('fare_invalid', '{"fare": {}}'),
  ('fare_invalid', ' {"company_id": "c0000000-0000-7000-8000-000000000001", "name": "N", "origin": "O", "destination": "D"}'),
  ('status_invalid', '{"status": "ACTIVE"}'), ('status_invalid', '{"status": null}'), ('status_invalid', '{"status": 1}'), ('status_invalid', '{"status": "suspended"}'),
  ('company_mismatch', '{"id": "d0000000-0000-7000-8000-000000000001", "company_id": "c0000000-0000-7000-8000-000000000002"}'),
  ('company_not_found', '{"company_id": "c0000000-0000-7000-8000-000000000009"}')
) as c(reason, element);
select is((select count(*) from farebox.routes), (select routes from before), 'what is rejected is not stored');
select results_eq(
  $$select o.ordinal, o.id::text, o.outcome from farebox.upsert_routes('[{"id": "d0000000-0000-7000-8000-000000000003"}, {}]') as o$$,
  $$values (1, 'd0000000-0000-7000-8000-000000000003', 'rejected'), (2, null::text, 'rejected')$$,
  'a rejected element has the id it came with');

-- Everything is wrong; each line names the reason given and corrects one field for the next.
select is(
  pg_temp.outcomes(('{"id": "x", "company_id": "x", "name": "", "origin": "", "destination": "", "fare": "x", "status": "x"}'::jsonb
    || coalesce(jsonb_object_agg(c.field, c.value) over (order by c.place rows between unbounded preceding and 1 preceding), '{}'))::text),
  'rejected ' || c.reason, format('precedence %s: %s', c.place, c.reason))
from (values
  (1, 'route_id_invalid', 'id', 'd0000000-0000-7000-8000-000000000001'),
  (2, 'company_id_invalid', 'company_id', 'c0000000-0000-7000-8000-000000000009'),
  (3, 'name_invalid', 'name', 'N'),
  (4, 'origin_invalid', 'origin', 'O'),
  (5, 'destination_invalid', 'destination', 'D'),
  (6, 'fare_invalid', 'fare', '1'),
  (7, 'status_invalid', 'status', 'active'),
  (8, 'company_mismatch', 'id', 'd0000000-0000-7000-8000-000000000009'),
  (9, 'company_not_found', null, null)
) as c(place, reason, field, value);

-- Misuse -------------------------------------------------------------------------------------------------------

select is(pg_temp.raised(format('select farebox.upsert_routes(%L)', c.batch)),
  'TK001 the batch is not a JSON array (pass an array of objects: [{"company_id": …}, …])', 'TK001: ' || coalesce(c.batch, 'null'))
from (values (null), ('null'), ('{}'), ('"[]"'), ('5')) as c(batch);
select is(pg_temp.raised($$select farebox.upsert_routes((select json_agg(1) from generate_series(1, 10001)))$$),
  'TK002 the batch is longer than 10,000 (send it in batches of 10,000 or fewer)', 'TK002: 10,001 elements');

-- Privileges ---------------------------------------------------------------------------------------------------

select lives_ok(format('set local role farebox_admin; select farebox.upsert_routes(%L); reset role', format('[%s]', pg_temp.route())),
  'farebox_admin may');
select throws_ok(format('set local role %I; select farebox.upsert_routes(''[]'')', r.role), '42501', null, r.role || ' may not')
from unnest(array['farebox_app', 'farebox_worker', 'farebox_company', 'pg_monitor']) as r(role);

select * from finish(true);
rollback;
