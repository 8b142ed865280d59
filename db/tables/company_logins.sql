set role farebox_owner;

create table farebox.company_logins (
  login name not null,
  company_id uuid not null,
  created_at timestamptz default farebox._now() not null,
  constraint company_logins_pkey primary key (login),
  constraint company_logins_company_exists foreign key (company_id) references farebox.companies (id)
);

comment on table farebox.company_logins is 'Which company a database login is bound to; the login itself cannot change it';
comment on column farebox.company_logins.login is 'The role that logs in (session_user)';
comment on column farebox.company_logins.company_id is 'The only company it reads';
comment on column farebox.company_logins.created_at is 'When the login was bound';

-- Default privileges do not reach the row type of a table.
revoke all on type farebox.company_logins from public;

reset role;
