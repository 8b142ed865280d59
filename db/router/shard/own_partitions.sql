-- The partitions that live here. Who writes for a company locks the table ROW SHARE; who takes a partition away, or a payment from a
-- company (_shard_yield), locks it EXCLUSIVE: so nobody is in the middle of a batch then.
set role farebox_owner;

create table if not exists farebox.own_partitions (
  partition int not null,
  is_open boolean default true not null,
  constraint own_partitions_pkey primary key (partition)
);
alter table farebox.own_partitions add column if not exists fenced_until timestamptz;
revoke all on type farebox.own_partitions from public;
alter table farebox.own_partitions enable row level security;

comment on table farebox.own_partitions is 'The logical partitions that live on this shard';
comment on column farebox.own_partitions.partition is 'The partition';
comment on column farebox.own_partitions.is_open is 'False while it is on its way here or away: nobody writes to it';
comment on column farebox.own_partitions.fenced_until is
  'As if it were not open until then, by this server''s clock: so the fence of a mover that died opens by itself; null = no fence';

-- Partitions of which rows are here that count for nothing: copied while they still live elsewhere, or left behind and being removed.
create table if not exists farebox.stray_partitions (
  partition int not null,
  is_coming boolean not null,
  since timestamptz default clock_timestamp() not null,
  constraint stray_partitions_pkey primary key (partition)
);
revoke all on type farebox.stray_partitions from public;
alter table farebox.stray_partitions enable row level security;

comment on table farebox.stray_partitions is 'Partitions of which rows are here that count for nothing, because a move is under way';
comment on column farebox.stray_partitions.partition is 'The partition, which lives on another shard';
comment on column farebox.stray_partitions.is_coming is 'Being copied here; false: it has moved away, and its rows are being removed';
comment on column farebox.stray_partitions.since is 'Since when';

reset role;
