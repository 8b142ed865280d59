-- The partitions that live here. Who writes for a company locks the table ROW SHARE; who takes a partition away, or a payment from a
-- company (_shard_yield), locks it EXCLUSIVE: so nobody is in the middle of a batch then.
set role farebox_owner;

create table if not exists farebox.own_partitions (
  partition int not null,
  is_open boolean default true not null,
  constraint own_partitions_pkey primary key (partition)
);
revoke all on type farebox.own_partitions from public;
alter table farebox.own_partitions enable row level security;

comment on table farebox.own_partitions is 'The logical partitions that live on this shard';
comment on column farebox.own_partitions.partition is 'The partition';
comment on column farebox.own_partitions.is_open is 'False while it is on its way here or away: nobody writes to it';

reset role;
