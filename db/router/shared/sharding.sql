-- What this database is in a sharded installation: its router, or one of its shards. One row.
set role farebox_owner;

create table if not exists farebox.sharding (
  only_row boolean default true not null,
  cluster_id uuid not null,
  is_router boolean not null,
  shard int,
  partitions int not null,
  has_registry boolean not null,
  constraint sharding_pkey primary key (only_row),
  constraint sharding_is_one_row check (only_row),
  constraint sharding_router_has_no_number check (is_router = (shard is null)),
  constraint sharding_shard_is_small check (shard between 1 and 999),
  constraint sharding_partitions_is_power_of_two check (partitions between 1 and 1024 and partitions & (partitions - 1) = 0)
);
revoke all on type farebox.sharding from public;
alter table farebox.sharding enable row level security;

comment on table farebox.sharding is 'What this database is in a sharded installation; one row';
comment on column farebox.sharding.only_row is 'There is one row';
comment on column farebox.sharding.cluster_id is 'Names the installation: the same on the router and on all its shards';
comment on column farebox.sharding.is_router is 'The router, or a shard';
comment on column farebox.sharding.shard is 'The shard''s number, from 1; null on the router';
comment on column farebox.sharding.partitions is 'How many logical partitions the companies fall into; never changes';
comment on column farebox.sharding.has_registry is 'Whether payments and codes are kept unique over all shards';

reset role;
