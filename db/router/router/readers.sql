-- The routers that read from standbys of the shards, with maps of their own: `farebox shards move` changes theirs too.
set role farebox_owner;

create table if not exists farebox.readers (
  place text not null,
  since timestamptz default clock_timestamp() not null,
  constraint readers_pkey primary key (place)
);
revoke all on type farebox.readers from public;
alter table farebox.readers enable row level security;

comment on table farebox.readers is 'The routers that read from standbys of the shards';
comment on column farebox.readers.place is 'Where it is: host, port, database; no login';
comment on column farebox.readers.since is 'Since when it is known here';

reset role;
