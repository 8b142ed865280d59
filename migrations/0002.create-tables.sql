-- 0002.create-tables. Made from db/ by tests/tools/freeze_migrations.py; see README.md here.
-- depends: 0001.create-schema

-- [copy of db/tables/companies.sql]
set role farebox_owner;

create table farebox.companies (
  id uuid default farebox._uuid_v7() not null,
  name text not null,
  monime_account_id text,
  commission_rate numeric(5,4) default 0.05 not null,
  status text collate "C" default 'active' not null,
  created_at timestamptz default farebox._now() not null,
  constraint companies_pkey primary key (id),
  constraint companies_name_is_present check (btrim(name) <> ''),
  constraint companies_commission_rate_is_a_share check (commission_rate between 0 and 1),
  constraint companies_status_is_known check (status in ('active', 'suspended'))
);

comment on table farebox.companies is 'A bus company: the tenant';
comment on column farebox.companies.id is 'Time-ordered UUID';
comment on column farebox.companies.name is 'The name passengers know';
comment on column farebox.companies.monime_account_id is 'The company''s account at the payment provider; null until it is known';
comment on column farebox.companies.commission_rate is 'The platform''s share of each amount, 0 to 1, unless a request names its own';
comment on column farebox.companies.status is 'active sells tickets, suspended does not; retries of old payments still get their ticket';
comment on column farebox.companies.created_at is 'When the company was added, by the database''s clock';

-- Default privileges do not reach the row type of a table.
revoke all on type farebox.companies from public;

reset role;

-- [copy of db/tables/routes.sql]
set role farebox_owner;

create table farebox.routes (
  id uuid default farebox._uuid_v7() not null,
  company_id uuid not null,
  name text not null,
  origin text default '' not null,
  destination text default '' not null,
  fare bigint not null,
  status text collate "C" default 'active' not null,
  created_at timestamptz default farebox._now() not null,
  constraint routes_pkey primary key (id),
  constraint routes_company_exists foreign key (company_id) references farebox.companies (id),
  constraint routes_name_is_present check (btrim(name) <> ''),
  constraint routes_fare_is_in_range check (fare between 1 and 1000000000000),
  constraint routes_status_is_known check (status in ('active', 'inactive'))
);

-- Serves list_routes (keyset by id) and the foreign key's look-up when a company is deleted.
create index idx_routes_company on farebox.routes (company_id, id);

comment on table farebox.routes is 'A route of one company, with its fare';
comment on column farebox.routes.id is 'Time-ordered UUID';
comment on column farebox.routes.company_id is 'The company that runs the route';
comment on column farebox.routes.name is 'The name passengers know, for instance Freetown - Bo';
comment on column farebox.routes.origin is 'Where the route starts';
comment on column farebox.routes.destination is 'Where the route ends';
comment on column farebox.routes.fare is 'The usual fare in minor units (SLE 1 = 100); a payment may differ';
comment on column farebox.routes.status is 'active sells tickets, inactive does not';
comment on column farebox.routes.created_at is 'When the route was added, by the database''s clock';
comment on index farebox.idx_routes_company is 'Serves the list of a company''s routes';

-- Default privileges do not reach the row type of a table.
revoke all on type farebox.routes from public;

reset role;

-- [copy of db/tables/payment_codes.sql]
set role farebox_owner;

create table farebox.payment_codes (
  id uuid default farebox._uuid_v7() not null,
  company_id uuid not null,
  route_id uuid,
  code text collate "C" not null,
  total_tickets int not null,
  used_tickets int default 0 not null,
  status text collate "C" default 'active' not null,
  expires_at timestamptz,
  created_at timestamptz default farebox._now() not null,
  constraint payment_codes_pkey primary key (id),
  constraint payment_codes_company_exists foreign key (company_id) references farebox.companies (id),
  constraint payment_codes_route_exists foreign key (route_id) references farebox.routes (id),
  constraint payment_codes_code_is_dialable check (code = btrim(code) and length(code) between 1 and 64),
  constraint payment_codes_total_is_positive check (total_tickets >= 1),
  constraint payment_codes_used_is_within_total check (used_tickets between 0 and total_tickets),
  constraint payment_codes_status_is_known check (status in ('active', 'expired', 'cancelled'))
)
with (
  -- Each batch rewrites the counter of each code it charges. Half a page is kept free so that the new version
  -- stays on the page (HOT, no index touched) and the page cleans itself; autovacuum need not run often for that,
  -- but it should not wait for a fifth of a table in which a handful of rows does all the churning.
  fillfactor = 50,
  autovacuum_vacuum_scale_factor = 0.02,
  autovacuum_vacuum_threshold = 1000,
  autovacuum_vacuum_cost_delay = 0
);

-- The unique key of the code and the way to the code to charge: one index for both. Nothing that changes when a
-- code is charged (used_tickets, status) may be in an index or its predicate, or the update would not be HOT.
create unique index idx_payment_codes_update on farebox.payment_codes (code);
-- Serves list_payment_codes (keyset by id) and the foreign key's look-up when a company is deleted.
create index idx_payment_codes_company on farebox.payment_codes (company_id, id);
-- Serves the sweep of codes whose time is over. Few codes have an end, so the index is small.
create index idx_payment_codes_expiry on farebox.payment_codes (expires_at) where expires_at is not null;

comment on table farebox.payment_codes is 'A reusable code that passengers dial, good for total_tickets tickets';
comment on column farebox.payment_codes.id is 'Time-ordered UUID';
comment on column farebox.payment_codes.company_id is 'The company that sells by this code';
comment on column farebox.payment_codes.route_id is 'The only route the code is good for; null = any route of the company';
comment on column farebox.payment_codes.code is 'What passengers dial; unique on the platform';
comment on column farebox.payment_codes.total_tickets is 'How many tickets the code is good for';
comment on column farebox.payment_codes.used_tickets is 'How many tickets carry the code; always the exact count';
comment on column farebox.payment_codes.status is 'active; expired (spent, or its time is over); cancelled';
comment on column farebox.payment_codes.expires_at is 'From when on the code buys nothing more; null = never';
comment on column farebox.payment_codes.created_at is 'When the code was issued, by the database''s clock';
comment on index farebox.idx_payment_codes_update is 'Serves finding the code to charge; keeps codes unique';
comment on index farebox.idx_payment_codes_company is 'Serves the list of a company''s codes';
comment on index farebox.idx_payment_codes_expiry is 'Serves the sweep of codes whose time is over';

-- Default privileges do not reach the row type of a table.
revoke all on type farebox.payment_codes from public;

reset role;

-- [copy of db/tables/tickets.sql]
set role farebox_owner;

-- No foreign keys here: create_tickets, the only writer, has just read the company, the route and the code it
-- stores, the delete guards keep those rows in place, and verify() proves it. Foreign keys would cost about 15 % and
-- a row lock on the same few companies and routes for each ticket.
create table farebox.tickets (
  id uuid default farebox._uuid_v7() not null,
  company_id uuid not null,
  route_id uuid not null,
  payment_code_id uuid,
  amount bigint not null,
  created_at timestamptz default farebox._now() not null,
  commission_rate numeric(5,4) not null,
  monime_transaction_id text collate "C" not null,
  passenger_phone text collate "C" not null,
  monime_otp text collate "C" not null,
  status text collate "C" default 'pending' not null,
  constraint tickets_pkey primary key (id),
  constraint tickets_amount_is_in_range check (amount between 1 and 1000000000000),
  constraint tickets_commission_rate_is_a_share check (commission_rate between 0 and 1),
  constraint tickets_status_is_known check (status in ('pending', 'used', 'expired', 'cancelled'))
)
with (
  -- Rows are written once and change status once at most: pages are filled. Inserts alone make autovacuum run,
  -- early enough that the visibility map and the statistics keep up with a table that grows by millions a day.
  fillfactor = 100,
  autovacuum_vacuum_insert_scale_factor = 0.05,
  autovacuum_vacuum_insert_threshold = 100000,
  autovacuum_analyze_scale_factor = 0.02,
  autovacuum_analyze_threshold = 10000
);

-- Idempotency: the unique one. Collation "C" compares bytes: fast, and untouched by an upgrade of the system's collations.
create unique index idx_tickets_transaction_lookup on farebox.tickets (monime_transaction_id);
-- Dashboards (company_summary) and a company's pending tickets by age.
create index idx_tickets_company_status_created on farebox.tickets (company_id, status, created_at);
-- Sweeps over all companies: pending tickets by age. Partial: what is used or expired leaves it.
create index idx_tickets_pending on farebox.tickets (created_at) where status = 'pending';
-- A passenger's tickets. Without the time: a passenger has few, and equal keys share one index entry.
create index idx_tickets_phone_company on farebox.tickets (passenger_phone, company_id);

comment on table farebox.tickets is 'What one payment buys; one row a payment, never two';
comment on column farebox.tickets.id is 'Time-ordered UUID';
comment on column farebox.tickets.company_id is 'The company that sold it';
comment on column farebox.tickets.route_id is 'The route it is good for';
comment on column farebox.tickets.payment_code_id is 'The code it was bought with; null when none was';
comment on column farebox.tickets.amount is 'What was paid, in minor units';
comment on column farebox.tickets.created_at is 'When it was created, by the database''s clock';
comment on column farebox.tickets.commission_rate is 'The platform''s share at creation, 0 to 1';
comment on column farebox.tickets.monime_transaction_id is 'The payment, as the provider names it, trimmed; unique on the platform';
comment on column farebox.tickets.passenger_phone is 'E.164';
comment on column farebox.tickets.monime_otp is 'The one-time password the passenger shows';
comment on column farebox.tickets.status is 'pending until used, expired or cancelled';
comment on index farebox.idx_tickets_transaction_lookup is 'Serves idempotency: one payment, one ticket';
comment on index farebox.idx_tickets_company_status_created is 'Serves dashboards and a company''s pending tickets';
comment on index farebox.idx_tickets_pending is 'Serves pending and expiry sweeps over all companies';
comment on index farebox.idx_tickets_phone_company is 'Serves a passenger''s tickets';

-- Default privileges do not reach the row type of a table.
revoke all on type farebox.tickets from public;

reset role;

-- [copy of db/tables/transactions.sql]
set role farebox_owner;

-- One key only: it is the ticket's. It costs about 30 % of a creation as it is; a second index or a foreign key
-- would cost more than anything it could tell that verify() does not.
create table farebox.transactions (
  ticket_id uuid not null,
  company_id uuid not null,
  amount bigint not null,
  commission bigint not null,
  net_amount bigint not null,
  created_at timestamptz default farebox._now() not null,
  status text collate "C" default 'completed' not null,
  constraint transactions_pkey primary key (ticket_id),
  constraint transactions_commission_is_within_amount check (commission between 0 and amount),
  constraint transactions_net_amount_is_the_rest check (net_amount = amount - commission),
  constraint transactions_status_is_known check (status in ('completed', 'reversed'))
)
with (
  fillfactor = 100,
  autovacuum_vacuum_insert_scale_factor = 0.05,
  autovacuum_vacuum_insert_threshold = 100000,
  autovacuum_analyze_scale_factor = 0.02,
  autovacuum_analyze_threshold = 10000
);

comment on table farebox.transactions is 'Transaction records: the money side of each ticket';
comment on column farebox.transactions.ticket_id is 'The ticket; one record a ticket';
comment on column farebox.transactions.company_id is 'The company of the ticket';
comment on column farebox.transactions.amount is 'What was paid, in minor units';
comment on column farebox.transactions.commission is 'The platform''s share: amount x rate, rounded half away from zero';
comment on column farebox.transactions.net_amount is 'The company''s share: amount - commission';
comment on column farebox.transactions.created_at is 'When the record was written; later than the ticket when it was repaired';
comment on column farebox.transactions.status is 'completed, or reversed when the money went back';

-- Default privileges do not reach the row type of a table.
revoke all on type farebox.transactions from public;

reset role;

-- [copy of db/tables/unapplied_payments.sql]
set role farebox_owner;

create table farebox.unapplied_payments (
  monime_transaction_id text collate "C" not null,
  company_id uuid,
  request json not null,
  reason text collate "C",
  first_seen_at timestamptz default farebox._now() not null,
  last_seen_at timestamptz default farebox._now() not null,
  attempts int default 1 not null,
  earlier_requests json[] default '{}' not null,
  resolved_at timestamptz,
  ticket_id uuid,
  constraint unapplied_payments_pkey primary key (monime_transaction_id),
  constraint unapplied_payments_attempts_is_positive check (attempts >= 1),
  -- A row without a reason was resolved by the same call that would have brought it back after a purge.
  constraint unapplied_payments_open_has_reason check (reason is not null or resolved_at is not null),
  constraint unapplied_payments_resolved_has_ticket check ((resolved_at is null) = (ticket_id is null))
)
with (
  -- A row is written again at each attempt and once when it resolves.
  fillfactor = 70
);

-- Serves apply_unapplied_payments and the list: what is open, least recently tried first.
create index idx_unapplied_payments_open on farebox.unapplied_payments (last_seen_at) where resolved_at is null;

comment on table farebox.unapplied_payments is 'Money that arrived and could not become a ticket; never forgotten, can be applied later';
comment on column farebox.unapplied_payments.monime_transaction_id is 'The payment, trimmed; one row a payment';
comment on column farebox.unapplied_payments.company_id is 'The company that all its requests named; null when they named none or several, or the ticket is another company''s';
comment on column farebox.unapplied_payments.request is 'The latest request, exactly as it came';
comment on column farebox.unapplied_payments.reason is 'Why the latest attempt was rejected';
comment on column farebox.unapplied_payments.first_seen_at is 'When the payment was first rejected';
comment on column farebox.unapplied_payments.last_seen_at is 'When it was last tried';
comment on column farebox.unapplied_payments.attempts is 'How many times it was tried and rejected';
comment on column farebox.unapplied_payments.earlier_requests is
  'Earlier requests of the same payment that differed, newest first, nine at most: a redelivery with a masked phone must not erase the good one';
comment on column farebox.unapplied_payments.resolved_at is 'When the payment was seen to have its ticket; null while it is open';
comment on column farebox.unapplied_payments.ticket_id is 'The ticket the payment became; null while it is open';
comment on index farebox.idx_unapplied_payments_open is 'Serves the open payments, least recently tried first';

-- Default privileges do not reach the row type of a table.
revoke all on type farebox.unapplied_payments from public;

reset role;

-- [copy of db/tables/company_logins.sql]
set role farebox_owner;

create table farebox.company_logins (
  login name not null,
  company_id uuid not null,
  created_at timestamptz default farebox._now() not null,
  constraint company_logins_pkey primary key (login),
  constraint company_logins_company_exists foreign key (company_id) references farebox.companies (id)
);

comment on table farebox.company_logins is 'Which company a database login is bound to; the login itself cannot change it';
comment on column farebox.company_logins.login is 'The role that logs in (session_user)';
comment on column farebox.company_logins.company_id is 'The only company it reads';
comment on column farebox.company_logins.created_at is 'When the login was bound';

-- Default privileges do not reach the row type of a table.
revoke all on type farebox.company_logins from public;

reset role;

-- [copy of db/tables/ticket_queue.sql]
set role farebox_owner;

create sequence farebox.ticket_queue_ids as bigint;
-- Numbers that all sessions share at once, whatever becomes of their transactions, and that leave no dead rows however often they
-- change: what a table cannot do. They are hints: any value is safe.
create sequence farebox.ticket_queue_floor as bigint minvalue 0 start 0;
create sequence farebox.ticket_queue_next_floor as bigint minvalue 0 start 0;
create sequence farebox.ticket_queue_generation as bigint minvalue 0 start 0;
create sequence farebox.ticket_queue_tick as bigint minvalue 0 start 0;
create sequence farebox.ticket_queue_sweep as bigint minvalue 0 start 0;
create sequence farebox.ticket_queue_bell as bigint minvalue 0 start 0;
create sequence farebox.ticket_queue_watch as bigint minvalue 0 start 0;

create table farebox.ticket_queue (
  id bigint not null,
  rank bigint,
  enqueued_at timestamptz not null,
  ready_at timestamptz,
  company_id uuid not null,
  attempts smallint default 0 not null,
  together smallint,
  reason text collate "C",
  request json not null,
  constraint ticket_queue_pkey primary key (id),
  constraint ticket_queue_in_line_or_delayed check (rank is null or ready_at is null),
  constraint ticket_queue_attempts_are_few check (attempts between 0 and 4),
  constraint ticket_queue_together_is_positive check (together >= 1)
)
with (
  -- Every row is written and deleted once: what autovacuum finds is garbage for the most part, and its size is the
  -- queue's traffic, not its length.
  autovacuum_vacuum_scale_factor = 0,
  autovacuum_vacuum_threshold = 10000,
  autovacuum_vacuum_cost_delay = 0,
  autovacuum_analyze_scale_factor = 0.5,
  autovacuum_analyze_threshold = 100000,
  -- Giving pages back takes a lock that stops everybody; the next backlog needs them again.
  vacuum_truncate = off
);

-- The line: who is next.
create index idx_ticket_queue_line on farebox.ticket_queue (rank, id) where rank is not null;
-- The end of a company's own line, and its requests that are paused (without rank, at the other end).
create index idx_ticket_queue_company on farebox.ticket_queue (company_id, rank nulls first);
-- Those in backoff. Nearly always empty.
create index idx_ticket_queue_delayed on farebox.ticket_queue (ready_at) where ready_at is not null;

comment on sequence farebox.ticket_queue_ids is 'Numbers the queued requests';
comment on sequence farebox.ticket_queue_floor is
  'Hint: no request in line is likely to have a lower rank; claims start here';
comment on sequence farebox.ticket_queue_next_floor is
  'Hint: what the floor will be, once whoever ranks by a lower one has ended; new companies are ranked from here';
comment on sequence farebox.ticket_queue_generation is
  'How often the next floor was set: whoever ranks by it holds an advisory lock of that number until the end';
comment on sequence farebox.ticket_queue_tick is 'Hint: when (epoch, ms) the floor may rise again';
comment on sequence farebox.ticket_queue_sweep is 'Hint: when (epoch, ms) to look below the floor again';
comment on sequence farebox.ticket_queue_bell is 'Hint: 1 while a worker sleeps, so that the next request wakes it';
comment on sequence farebox.ticket_queue_watch is 'Hint: until when (epoch, ms) somebody waits for outcomes';
comment on table farebox.ticket_queue is 'Requests stored and not settled yet: in line (rank), in backoff (ready_at), or paused (neither)';
comment on column farebox.ticket_queue.id is 'The queue id that enqueue_tickets returned';
comment on column farebox.ticket_queue.rank is
  'The place in line: one more than the company''s last, so that each company''s next requests stand side by side; null = not in line';
comment on column farebox.ticket_queue.enqueued_at is 'When it was stored, by the database''s clock';
comment on column farebox.ticket_queue.ready_at is 'In backoff until then; null = not in backoff';
comment on column farebox.ticket_queue.company_id is 'The company the request names; zeros when it names none';
comment on column farebox.ticket_queue.attempts is 'How often it failed or its worker died, when it was tried alone';
comment on column farebox.ticket_queue.together is 'At most so many are tried together, since a batch with it has failed; null = any number';
comment on column farebox.ticket_queue.reason is 'Why the latest attempt failed: error_ and the SQLSTATE, or unfinished: the worker, its session or the server died';
comment on column farebox.ticket_queue.request is 'The request, exactly as it came';
comment on index farebox.idx_ticket_queue_line is 'Serves the claim: who is next';
comment on index farebox.idx_ticket_queue_company is 'Serves the end of a company''s line, pausing and resuming it';
comment on index farebox.idx_ticket_queue_delayed is 'Serves the requests in backoff';

-- Default privileges do not reach the row type of a table.
revoke all on type farebox.ticket_queue from public;

reset role;

-- [copy of db/tables/ticket_queue_dead.sql]
set role farebox_owner;

create table farebox.ticket_queue_dead (
  id bigint not null,
  company_id uuid,
  monime_transaction_id text collate "C",
  request json not null,
  reason text collate "C" not null,
  detail text,
  times int default 1 not null,
  first_seen_at timestamptz not null,
  last_seen_at timestamptz not null,
  fingerprint bytea not null,
  constraint ticket_queue_dead_pkey primary key (id),
  constraint ticket_queue_dead_is_kept_once unique (fingerprint, reason),
  constraint ticket_queue_dead_times_is_positive check (times >= 1)
);

-- Serves the list of dead requests, longest not seen first.
create index idx_ticket_queue_dead_seen on farebox.ticket_queue_dead (last_seen_at, id);

comment on table farebox.ticket_queue_dead is
  'Queued requests that came to no ticket and have no place in unapplied_payments: conflicts, ids that are malformed or another company''s';
comment on column farebox.ticket_queue_dead.id is 'The queue id of the first of its kind';
comment on column farebox.ticket_queue_dead.company_id is 'The company the request names, when it is a UUID at all';
comment on column farebox.ticket_queue_dead.monime_transaction_id is 'The payment, trimmed; null when it is malformed';
comment on column farebox.ticket_queue_dead.request is 'The request, exactly as it came';
comment on column farebox.ticket_queue_dead.reason is
  'conflict, transaction_id_invalid, transaction_id_unavailable; or, of a request given up: error_ and the SQLSTATE, unfinished';
comment on column farebox.ticket_queue_dead.detail is 'Of a conflict: the fields that differ';
comment on column farebox.ticket_queue_dead.times is 'How often the very same request ended like this';
comment on column farebox.ticket_queue_dead.first_seen_at is 'When the first of them ended';
comment on column farebox.ticket_queue_dead.last_seen_at is 'When the last of them ended';
comment on column farebox.ticket_queue_dead.fingerprint is 'SHA-256 of the request: a redelivery is counted, not kept again';
comment on index farebox.idx_ticket_queue_dead_seen is 'Serves the list of dead requests';

-- Default privileges do not reach the row type of a table.
revoke all on type farebox.ticket_queue_dead from public;

reset role;

-- [copy of db/tables/ticket_queue_pauses.sql]
set role farebox_owner;

create table farebox.ticket_queue_pauses (
  company_id uuid not null,
  paused_at timestamptz not null,
  constraint ticket_queue_pauses_pkey primary key (company_id)
);

comment on table farebox.ticket_queue_pauses is 'Companies whose queued requests wait until they are resumed';
comment on column farebox.ticket_queue_pauses.company_id is 'The company';
comment on column farebox.ticket_queue_pauses.paused_at is 'Since when';

-- Default privileges do not reach the row type of a table.
revoke all on type farebox.ticket_queue_pauses from public;

reset role;

-- [copy of db/tables/tally.sql]
set role farebox_owner;

-- PostgreSQL counts the entries that are read from an index (pg_stat_all_indexes.idx_tup_read) without WAL, without a dead row and
-- whatever becomes of the transaction. So who reads n marks by the index of a column has counted n: see _count_outcomes,
-- _count_retries. Dumps and scans of the table count nothing. A crash and a promotion start all such counters anew.
create table farebox.tally (
  duplicates smallint not null,
  conflicts smallint not null,
  rejections smallint not null,
  retries smallint not null,
  given_up smallint not null
)
with (
  -- Vacuumed once, the indexes answer alone.
  autovacuum_vacuum_insert_threshold = 0
);

create unique index idx_tally_duplicates on farebox.tally (duplicates);
create unique index idx_tally_conflicts on farebox.tally (conflicts);
create unique index idx_tally_rejections on farebox.tally (rejections);
create unique index idx_tally_retries on farebox.tally (retries);
create unique index idx_tally_given_up on farebox.tally (given_up);

insert into farebox.tally (duplicates, conflicts, rejections, retries, given_up)
select n, n, n, n, n from generate_series(1, 200) as n;

comment on table farebox.tally is 'Marks from 1 to 200, never changed: reading them is how answers are counted, see metrics_tickets()';
comment on column farebox.tally.duplicates is 'Read once for each payment that came again';
comment on column farebox.tally.conflicts is 'Read once for each payment that came again with other fields';
comment on column farebox.tally.rejections is 'Read once for each rejected payment';
comment on column farebox.tally.retries is 'Read once for each queued request that is to be tried again';
comment on column farebox.tally.given_up is 'Read once for each queued request that has used up its attempts';
comment on index farebox.idx_tally_duplicates is 'Counts duplicates';
comment on index farebox.idx_tally_conflicts is 'Counts conflicts';
comment on index farebox.idx_tally_rejections is 'Counts rejections';
comment on index farebox.idx_tally_retries is 'Counts retries of queued requests';
comment on index farebox.idx_tally_given_up is 'Counts queued requests that were given up';

-- Default privileges do not reach the row type of a table.
revoke all on type farebox.tally from public;

reset role;
