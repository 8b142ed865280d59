-- Everything says what it is for: whatever is in the schema has a comment.
begin;
select plan(10);

select isnt_empty($$select from pg_class where relnamespace = 'farebox'::regnamespace$$, 'there is something to look at');
select ok(obj_description('farebox'::regnamespace, 'pg_namespace') is not null, 'the schema');
select is_empty(
  $$select c.oid::regclass, c.relkind from pg_class as c
    where c.relnamespace = 'farebox'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S') and obj_description(c.oid, 'pg_class') is null$$,
  'each table, view and sequence');
select is_empty(
  $$select c.oid::regclass, a.attname from pg_class as c
    join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    where c.relnamespace = 'farebox'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f') and col_description(c.oid, a.attnum) is null$$,
  'each column');
select is_empty(
  $$select c.oid::regclass from pg_class as c
    where c.relnamespace = 'farebox'::regnamespace and c.relkind in ('i', 'I') and obj_description(c.oid, 'pg_class') is null
      and not exists (select from pg_constraint as k where k.conindid = c.oid and k.contype in ('p', 'u', 'x'))$$,
  'each index that is not a constraint''s');
select is_empty(
  $$select p.oid::regprocedure from pg_proc as p where p.pronamespace = 'farebox'::regnamespace and obj_description(p.oid, 'pg_proc') is null$$,
  'each function');
select is_empty(
  $$select t.oid::regtype from pg_type as t
    left join pg_class as c on c.oid = t.typrelid
    where t.typnamespace = 'farebox'::regnamespace and (c.relkind = 'c' or t.typtype in ('d', 'e', 'r')) and obj_description(t.oid, 'pg_type') is null$$,
  'each type');
select is_empty(
  $$select t.tgrelid::regclass, t.tgname from pg_trigger as t
    join pg_class as c on c.oid = t.tgrelid and c.relnamespace = 'farebox'::regnamespace
    where not t.tgisinternal and obj_description(t.oid, 'pg_trigger') is null$$,
  'each trigger');
select is_empty(
  $$select p.polrelid::regclass, p.polname from pg_policy as p
    join pg_class as c on c.oid = p.polrelid and c.relnamespace = 'farebox'::regnamespace
    where obj_description(p.oid, 'pg_policy') is null$$,
  'each policy');
select is_empty(
  $$select d.objoid, d.description from pg_description as d
    where d.description !~ '\S' and d.objoid in (
      select oid from pg_class where relnamespace = 'farebox'::regnamespace
      union all select oid from pg_proc where pronamespace = 'farebox'::regnamespace)$$,
  'none of them is empty');

select * from finish(true);
rollback;
