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
