-- purge_dead_requests: removes conflicts and strangers' payments that were last seen long ago; whatever else died stays.
begin;
select plan(14);

create or replace function farebox._now() returns timestamptz
language sql volatile parallel safe as $$ select '2025-06-01 08:00:00+00'::timestamptz $$;

insert into farebox.ticket_queue_dead (id, request, reason, first_seen_at, last_seen_at, fingerprint)
select v.id, '{}', v.reason, '2020-01-01 00:00:00+00', v.last_seen_at::timestamptz, sha256(v.id::text::bytea)
from (values
  (1, 'conflict', '2025-01-01 00:00:00+00'), (2, 'transaction_id_unavailable', '2025-01-02 00:00:00+00'),
  (3, 'conflict', '2025-05-01 00:00:00+00'), (4, 'transaction_id_invalid', '2025-01-01 00:00:00+00'),
  (5, 'error_XX000', '2025-01-01 00:00:00+00'), (6, 'unfinished', '2025-01-01 00:00:00+00')) as v(id, reason, last_seen_at);

select is(farebox.purge_dead_requests('2025-05-01 00:00:00+00', 1), 1, 'no more than the limit at a time');
select is(farebox.purge_dead_requests('2025-05-01 00:00:00+00'), 1, 'then the rest');
select is(farebox.purge_dead_requests('2025-05-01 00:00:00+00'), 0, 'then nothing more');
select set_eq('select id from farebox.ticket_queue_dead', array[3, 4, 5, 6],
  'what was seen since stays, and what may be money without a ticket');

select throws_ok(format('select farebox.purge_dead_requests(%L, %s)', c.p_before, c.p_limit), 'TK003', null, 'TK003: ' || c.what)
from (values ('2025-01-01', '0', 'limit 0'), ('2025-01-01', '10001', 'limit 10001'), ('2025-01-01', 'null', 'limit null'),
  ('2025-06-01 08:00:00.000001+00', '1', 'the future'), (null, '1', 'no time')) as c(p_before, p_limit, what);

select lives_ok(format($$set local role %I; select farebox.purge_dead_requests('2025-01-01 00:00:00+00'); reset role$$, r.role), r.role || ' may')
from unnest(array['farebox_worker', 'farebox_admin']) as r(role);
select throws_ok(format($$set local role %I; select farebox.purge_dead_requests('2025-01-01 00:00:00+00')$$, r.role), '42501', null, r.role || ' may not')
from unnest(array['farebox_app', 'farebox_company', 'pg_monitor']) as r(role);

select * from finish(true);
rollback;
