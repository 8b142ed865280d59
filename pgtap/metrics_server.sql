-- metrics_server: metrics of connections, locks, snapshots and transaction ids.
begin;
select plan(9);

select set_eq('select distinct metric from farebox.metrics_server()',
  array['farebox_connections', 'farebox_connections_limit', 'farebox_workers', 'farebox_blocked_sessions', 'farebox_oldest_transaction_seconds',
    'farebox_oldest_snapshot_xids', 'farebox_blocked_seconds', 'farebox_prepared_transactions', 'farebox_commits_total', 'farebox_rollbacks_total',
    'farebox_deadlocks_total', 'farebox_blocks_read_total', 'farebox_blocks_hit_total', 'farebox_oldest_xid_age'],
  'the metrics of a server without replication slots');
select is_empty('select from farebox.metrics_server() where value is null or value < 0', 'each sample has its value');
select ok(value >= 1, 'this session is counted') from farebox.metrics_server() where metric = 'farebox_connections' and labels ->> 'state' = 'active';
select ok(value > 0 and value <= current_setting('max_connections')::int, 'the limit of connections is the server''s')
from farebox.metrics_server() where metric = 'farebox_connections_limit';

-- Privileges ---------------------------------------------------------------------------------------------------

select lives_ok(format('set local role %I; select farebox.metrics_server(); reset role', r.role), r.role || ' may')
from unnest(array['farebox_worker', 'farebox_admin']) as r(role);
select throws_ok(format('set local role %I; select farebox.metrics_server()', r.role), '42501', null, r.role || ' may not')
from unnest(array['farebox_app', 'farebox_company', 'pg_monitor']) as r(role);

select * from finish(true);
rollback;
