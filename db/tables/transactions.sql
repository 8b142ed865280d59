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
