-- Payments and codes that companies of this shard have given up to companies of another: claims up to that number are void here.
set role farebox_owner;

create table if not exists farebox.foreign_subjects (
  kind "char" not null,
  subject text collate "C" not null,
  number int not null,
  since timestamptz not null,
  constraint foreign_subjects_pkey primary key (subject, kind)
);
revoke all on type farebox.foreign_subjects from public;
alter table farebox.foreign_subjects enable row level security;

comment on table farebox.foreign_subjects is 'Payments and codes that companies of this shard gave up to others';
comment on column farebox.foreign_subjects.kind is 'p: a payment; c: a payment code';
comment on column farebox.foreign_subjects.subject is 'The transaction id, or the code';
comment on column farebox.foreign_subjects.number is 'Claims up to this number are void here';
comment on column farebox.foreign_subjects.since is 'Since when';

reset role;
