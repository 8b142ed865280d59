-- The partition that is just moving from one shard to another, if any. `farebox shards move` writes it, one at a time; how far it has come
-- is told by the two shards.
set role farebox_owner;

create table if not exists farebox.moves (
  only_row boolean default true not null,
  partition int not null,
  source int not null,
  target int not null,
  is_taken_back boolean default false not null,
  altered text[] default '{}' not null,
  started_at timestamptz default clock_timestamp() not null,
  constraint moves_pkey primary key (only_row),
  constraint moves_is_one_row check (only_row),
  constraint moves_leads_elsewhere check (source <> target),
  constraint moves_source_exists foreign key (source) references farebox.shards (shard),
  constraint moves_target_exists foreign key (target) references farebox.shards (shard)
);
revoke all on type farebox.moves from public;
alter table farebox.moves enable row level security;

comment on table farebox.moves is 'The partition that is just moving; one row or none';
comment on column farebox.moves.only_row is 'There is one row at most';
comment on column farebox.moves.partition is 'The partition';
comment on column farebox.moves.source is 'The shard it comes from';
comment on column farebox.moves.target is 'The shard it goes to';
comment on column farebox.moves.is_taken_back is 'It goes back: what was copied is being removed';
comment on column farebox.moves.altered is 'Tables of the source whose replica identity is FULL for the time of the move';
comment on column farebox.moves.started_at is 'Since when';

reset role;
