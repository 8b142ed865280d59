-- Payments and codes that companies of this shard have given up to others: their claims up to that number are void.
set role farebox_owner;

create table if not exists farebox.foreign_subjects (
  company_id uuid not null,
  kind "char" not null,
  subject text collate "C" not null,
  number int not null,
  since timestamptz not null,
  constraint foreign_subjects_pkey primary key (subject, kind, company_id)
);
revoke all on type farebox.foreign_subjects from public;
alter table farebox.foreign_subjects enable row level security;

comment on table farebox.foreign_subjects is 'Payments and codes that companies of this shard gave up to others';
comment on column farebox.foreign_subjects.company_id is 'The company that gave it up';
comment on column farebox.foreign_subjects.kind is 'p: a payment; c: a payment code';
comment on column farebox.foreign_subjects.subject is 'The transaction id, or the code';
comment on column farebox.foreign_subjects.number is 'Its claims up to this number are void';
comment on column farebox.foreign_subjects.since is 'Since when';

-- Payments or codes that came back to companies of this shard: what they had given up before counts no more.
-- Parameters: p_kind; p_retaken, [[subject, company, number of the claim], …].
create or replace function farebox._take_back(p_kind "char", p_retaken text)
returns void
language plpgsql volatile security invoker
as $$
begin
  if p_retaken <> '[]' then
    delete from farebox.foreign_subjects as f
    using json_array_elements(p_retaken::json) as r(claim)
    where f.subject = (r.claim ->> 0) collate "C" and f.kind = p_kind and f.company_id = (r.claim ->> 1)::uuid
      and f.number < (r.claim ->> 2)::int;
  end if;
end
$$;

comment on function farebox._take_back("char", text) is 'Internal: payments or codes that came back to companies of this shard';

reset role;
