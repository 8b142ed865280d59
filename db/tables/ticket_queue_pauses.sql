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
