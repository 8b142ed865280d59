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
