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
