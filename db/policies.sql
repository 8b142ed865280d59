-- Row-level security: a company reads its own rows and no others. The owner, as whom the functions run, is not subject to it.
set role farebox_owner;

alter table farebox.companies enable row level security;
alter table farebox.routes enable row level security;
alter table farebox.payment_codes enable row level security;
alter table farebox.tickets enable row level security;
alter table farebox.transactions enable row level security;
alter table farebox.unapplied_payments enable row level security;
alter table farebox.company_logins enable row level security;
-- Without a policy: of the queue and of what counts nobody reads rows, whatever is granted.
alter table farebox.ticket_queue enable row level security;
alter table farebox.ticket_queue_dead enable row level security;
alter table farebox.ticket_queue_pauses enable row level security;
alter table farebox.tally enable row level security;

-- The subquery makes the planner ask once a statement instead of once a row.
create policy companies_own_rows on farebox.companies for select to farebox_company
  using (id = (select farebox._login_company()));
create policy routes_own_rows on farebox.routes for select to farebox_company
  using (company_id = (select farebox._login_company()));
create policy payment_codes_own_rows on farebox.payment_codes for select to farebox_company
  using (company_id = (select farebox._login_company()));
create policy tickets_own_rows on farebox.tickets for select to farebox_company
  using (company_id = (select farebox._login_company()));
create policy transactions_own_rows on farebox.transactions for select to farebox_company
  using (company_id = (select farebox._login_company()));
create policy unapplied_payments_own_rows on farebox.unapplied_payments for select to farebox_company
  using (company_id = (select farebox._login_company()));

create policy companies_admin on farebox.companies to farebox_admin using (true) with check (true);
create policy routes_admin on farebox.routes to farebox_admin using (true) with check (true);
create policy payment_codes_admin on farebox.payment_codes to farebox_admin using (true) with check (true);
create policy unapplied_payments_admin on farebox.unapplied_payments for select to farebox_admin using (true);
create policy company_logins_admin on farebox.company_logins to farebox_admin using (true) with check (true);

comment on policy companies_own_rows on farebox.companies is 'A company reads itself';
comment on policy routes_own_rows on farebox.routes is 'A company reads its own routes';
comment on policy payment_codes_own_rows on farebox.payment_codes is 'A company reads its own payment codes';
comment on policy tickets_own_rows on farebox.tickets is 'A company reads its own tickets';
comment on policy transactions_own_rows on farebox.transactions is 'A company reads its own transaction records';
comment on policy unapplied_payments_own_rows on farebox.unapplied_payments is 'A company reads its own unapplied payments';
comment on policy companies_admin on farebox.companies is 'Administrators see all companies';
comment on policy routes_admin on farebox.routes is 'Administrators see all routes';
comment on policy payment_codes_admin on farebox.payment_codes is 'Administrators see all payment codes';
comment on policy unapplied_payments_admin on farebox.unapplied_payments is 'Administrators see all unapplied payments';
comment on policy company_logins_admin on farebox.company_logins is 'Administrators bind logins to companies';

reset role;
