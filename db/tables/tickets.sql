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
