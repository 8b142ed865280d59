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
