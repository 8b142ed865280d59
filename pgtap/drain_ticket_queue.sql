-- drain_ticket_queue: processes the queue until nothing is ready. It commits, so pytest tests what it does.
begin;
select plan(14);

select throws_ok('call farebox.drain_ticket_queue()', '2D000', null, 'not inside a transaction, where it could not commit');
select is((select prosecdef from pg_proc where oid = 'farebox.drain_ticket_queue(int, int)'::regprocedure), false, 'it has no rights of its own');
select results_eq(
  $$select r.role, has_function_privilege(r.role, 'farebox.drain_ticket_queue(int, int)', 'execute')
    from unnest(array['farebox_app', 'farebox_worker', 'farebox_admin', 'farebox_company', 'pg_monitor']) as r(role)$$,
  $$values ('farebox_app', false), ('farebox_worker', true), ('farebox_admin', false), ('farebox_company', false), ('pg_monitor', false)$$,
  'workers may');
-- Whatever it calls its caller may call too: it comes as far as the commit.
select throws_ok('set local role farebox_worker; call farebox.drain_ticket_queue()', '2D000', null, 'and may do what it does');
select throws_ok(format('set local role %I; call farebox.drain_ticket_queue()', r.role), '42501', null, r.role || ' may not')
from unnest(array['farebox_app', 'farebox_admin', 'farebox_company', 'pg_monitor']) as r(role);

select throws_ok(format('call farebox.drain_ticket_queue(%s)', c.p_limit), 'TK003', 'the limit is ' || c.p_limit, 'TK003: ' || c.p_limit)
from (values ('0'), ('-1'), ('null'), ('10001')) as c(p_limit);
select throws_ok(format('call farebox.drain_ticket_queue(100, %s)', c.p_batches), 'TK003', 'the number of batches is ' || c.p_batches, 'TK003: ' || c.p_batches)
from (values ('0'), ('null')) as c(p_batches);

select * from finish(true);
rollback;
