-- The registry: which company a payment or a code belongs to on the platform. A row lives on the shard that has the partition of its
-- subject, wherever the company is. It is there before the ticket, and alone it buys nothing.
set role farebox_owner;

create table if not exists farebox.claims (
  company_id uuid not null,
  claimed_at timestamptz not null,
  number int default 1 not null,
  kind "char" not null,
  subject text collate "C" not null,
  constraint claims_pkey primary key (subject, kind),
  constraint claims_kind_is_known check (kind in ('p', 'c')),
  constraint claims_number_is_positive check (number >= 1)
)
with (
  autovacuum_vacuum_insert_scale_factor = 0.05,
  autovacuum_vacuum_insert_threshold = 100000,
  autovacuum_analyze_scale_factor = 0.02,
  autovacuum_analyze_threshold = 10000
);
revoke all on type farebox.claims from public;
alter table farebox.claims enable row level security;

comment on table farebox.claims is 'Registry: the company that each payment and each code belongs to on the whole platform';
comment on column farebox.claims.company_id is 'The company';
comment on column farebox.claims.claimed_at is 'Since when, by this database''s clock';
comment on column farebox.claims.number is 'How often the subject has changed hands, and one: what an older claim allowed is void';
comment on column farebox.claims.kind is 'p: a payment, by its transaction id; c: a payment code';
comment on column farebox.claims.subject is 'The transaction id, or the code';

reset role;
