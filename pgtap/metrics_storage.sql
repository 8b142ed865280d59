-- metrics_storage: metrics of tables, indexes and their bloat.
begin;
select plan(12);

select set_eq($$select labels ->> 'relation' as name, labels ->> 'kind' as kind from farebox.metrics_storage() where metric = 'farebox_relation_bytes'$$,
  $$select c.relname::text as name, case c.relkind when 'r' then 'table' else 'index' end as kind from pg_class as c
    where c.relnamespace = 'farebox'::regnamespace and c.relkind in ('r', 'i')$$, 'the size of each table and index');
select set_eq($$select labels ->> 'index' from farebox.metrics_storage() where metric = 'farebox_index_scans_total'$$,
  $$select c.relname::text from pg_class as c where c.relnamespace = 'farebox'::regnamespace and c.relkind = 'i'$$, 'how often each index was used');
select set_eq(format($$select labels ->> 'table' from farebox.metrics_storage() where metric = %L$$, m.metric),
  $$select c.relname::text from pg_class as c where c.relnamespace = 'farebox'::regnamespace and c.relkind = 'r'$$, m.metric || ' of each table')
from unnest(array['farebox_dead_rows', 'farebox_live_rows', 'farebox_rows_changed_since_analyze']) as m(metric);
select is_empty('select from farebox.metrics_storage() where value is null or value < 0', 'each sample has its value');

insert into farebox.companies (name) select 'Company ' || n from generate_series(1, 5000) as n;
delete from farebox.companies where name <> 'Company 5000';
analyze farebox.companies;
select cmp_ok(m.value, '>', 0.9::double precision, 'a table that is nearly all dead rows is bloated')
from farebox.metrics_storage() as m where m.metric = 'farebox_bloat_ratio' and m.labels = '{"relation": "companies", "kind": "table"}';

-- Privileges ---------------------------------------------------------------------------------------------------

select lives_ok(format('set local role %I; select farebox.metrics_storage(); reset role', r.role), r.role || ' may')
from unnest(array['farebox_worker', 'farebox_admin']) as r(role);
select throws_ok(format('set local role %I; select farebox.metrics_storage()', r.role), '42501', null, r.role || ' may not')
from unnest(array['farebox_app', 'farebox_company', 'pg_monitor']) as r(role);

select * from finish(true);
rollback;
