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
