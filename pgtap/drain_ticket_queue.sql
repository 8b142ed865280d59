-- drain_ticket_queue: processes the queue until nothing is ready. It commits, so pytest tests what it does.
begin;
select plan(3);


select throws_ok('call farebox.drain_ticket_queue()', '2D000', null, 'not inside a transaction, where it could not commit');
select is((select prosecdef from pg_proc where oid = 'farebox.drain_ticket_queue(int, int)'::regprocedure), false, 'it has no rights of its own');
select results_eq(
  $$select r.role, has_function_privilege(r.role, 'farebox.drain_ticket_queue(int, int)', 'execute')
    from unnest(array['farebox_app', 'farebox_worker', 'farebox_admin', 'farebox_company', 'pg_monitor']) as r(role)$$,
  $$values ('farebox_app', false), ('farebox_worker', true), ('farebox_admin', false), ('farebox_company', false), ('pg_monitor', false)$$,
  'workers may');

select * from finish(true);
rollback;
