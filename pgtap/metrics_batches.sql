-- metrics_batches: metrics of the calls that sell tickets.
begin;
select plan(7);

select results_eq($$select metric, labels, value from farebox.metrics_batches() where metric like 'farebox_batch%' order by metric$$,
  $$values ('farebox_batch_running_seconds', '{}'::jsonb, 0::double precision), ('farebox_batches_running', '{}', 0)$$,
  'no call is running: this one is not counted');
select is_empty('select from farebox.metrics_batches() where value is null or metric is null or labels is null', 'each sample is whole');

-- Privileges ---------------------------------------------------------------------------------------------------

select lives_ok(format('set local role %I; select farebox.metrics_batches(); reset role', r.role), r.role || ' may')
from unnest(array['farebox_worker', 'farebox_admin']) as r(role);
select throws_ok(format('set local role %I; select farebox.metrics_batches()', r.role), '42501', null, r.role || ' may not')
from unnest(array['farebox_app', 'farebox_company', 'pg_monitor']) as r(role);

select * from finish(true);
rollback;
