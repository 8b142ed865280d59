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
