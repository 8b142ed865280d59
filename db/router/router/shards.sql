-- The map: which shards there are, and where each logical partition lives. `farebox shards` writes it, and the same into the
-- options of the foreign server that PL/Proxy reads.
set role farebox_owner;

create table if not exists farebox.shards (
  shard int not null,
  name text not null,
  conninfo text not null,
  conninfo_via text not null,
  constraint shards_pkey primary key (shard),
  constraint shards_name_is_unique unique (name),
  constraint shards_shard_is_small check (shard between 1 and 999)
);
revoke all on type farebox.shards from public;
alter table farebox.shards enable row level security;

comment on table farebox.shards is 'The shards of this router';
comment on column farebox.shards.shard is 'Its number, from 1';
comment on column farebox.shards.name is 'What people call it';
comment on column farebox.shards.conninfo is 'Where it is: host, port, database; no login';
comment on column farebox.shards.conninfo_via is 'How the router reaches it: the same, or a PgBouncer before it';

create table if not exists farebox.partitions (
  partition int not null,
  shard int not null,
  at int not null,
  constraint partitions_pkey primary key (partition),
  constraint partitions_shard_exists foreign key (shard) references farebox.shards (shard)
);
revoke all on type farebox.partitions from public;
alter table farebox.partitions enable row level security;

comment on table farebox.partitions is 'Where each logical partition lives';
comment on column farebox.partitions.partition is 'The partition, from 0';
comment on column farebox.partitions.shard is 'Its shard';
comment on column farebox.partitions.at is 'The first partition of that shard: by it PL/Proxy is told where to go, one call a shard';

-- Until when a shard is taken for lost (epoch, ms), so that not every call waits to find out again. Sequences, because all sessions see
-- them change at once, and nothing is written that could be rolled back or bloat. Not logged: or whoever looks at a lost shard would wait
-- for the disk when its call commits, and after a crash all are looked at anyway.
create or replace function farebox._down_sequence(p_shard int)
returns text
language sql immutable security invoker
as $$ select format('farebox.shard_%s_down_until', p_shard) $$;
comment on function farebox._down_sequence(int) is 'Internal: the sequence that tells until when a shard is taken for lost';

create unlogged sequence if not exists farebox.queue_turn as bigint cycle;
comment on sequence farebox.queue_turn is 'Which shard''s queue a worker looks at first';

reset role;
