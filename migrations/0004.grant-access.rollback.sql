-- Undoes 0004.grant-access. Made from db/ by tests/tools/freeze_migrations.py; see README.md here.

set role farebox_owner;
revoke execute on function farebox._login_company() from farebox_company;
revoke select on farebox.companies, farebox.routes, farebox.payment_codes, farebox.tickets,
  farebox.transactions, farebox.unapplied_payments from farebox_company;
revoke execute on function farebox.queue_size(), farebox.list_queued_requests(int, uuid, text, text, bigint),
  farebox.list_dead_requests(int, uuid, text, text, timestamptz, text), farebox.retry_queued_requests(text[]),
  farebox.drop_queued_requests(text[]), farebox.pause_company_queue(uuid), farebox.resume_company_queue(uuid),
  farebox.list_paused_companies() from farebox_admin;
revoke select on farebox.unapplied_payments from farebox_admin;
revoke update (total_tickets, status, expires_at) on farebox.payment_codes from farebox_admin;
revoke insert (id, company_id, route_id, code, total_tickets, expires_at, created_at) on farebox.payment_codes
  from farebox_admin;
revoke select, delete on farebox.payment_codes from farebox_admin;
revoke update (name, origin, destination, fare, status) on farebox.routes from farebox_admin;
revoke update (name, monime_account_id, commission_rate, status) on farebox.companies from farebox_admin;
revoke select, insert, delete on farebox.companies, farebox.routes from farebox_admin;
revoke select, insert, update, delete on farebox.company_logins from farebox_admin;
revoke execute on function farebox.upsert_companies(json), farebox.upsert_routes(json),
  farebox.issue_payment_codes(json), farebox.cancel_payment_codes(json), farebox.list_companies(int, uuid),
  farebox.list_routes(uuid, int, uuid), farebox.list_payment_codes(uuid, int, uuid),
  farebox.list_unapplied_payments(int, text, timestamptz, text, boolean), farebox.get_company(uuid),
  farebox.get_route(uuid, uuid), farebox.get_payment_code(uuid, text), farebox.bind_company_login(name, uuid),
  farebox._uuid_v7(), farebox._now() from farebox_admin;
revoke execute on procedure farebox.drain_ticket_queue(int, int) from farebox_worker;
revoke execute on function farebox.process_ticket_queue(int), farebox.begin_queued_request(boolean),
  farebox.process_queued_request(bigint), farebox.blameless_errors() from farebox_worker;
revoke execute on function farebox.record_missing_transactions(int), farebox.apply_unapplied_payments(int,
  text), farebox.expire_payment_codes(int), farebox.verify(), farebox.analyze_tables(double precision),
  farebox.purge_unapplied_payments(timestamptz, int), farebox.purge_dead_requests(timestamptz, int),
  farebox.metrics_tickets(), farebox.metrics_retries(), farebox.metrics_batches(),
  farebox.metrics_unapplied(), farebox.metrics_codes(), farebox.metrics_storage(), farebox.metrics_server(),
  farebox.metrics_activity(int), farebox.queue_metrics() from farebox_worker, farebox_admin;
revoke execute on function farebox.enqueue_tickets(json), farebox.queued_outcomes(bigint[], json),
  farebox.queue_size() from farebox_app;
revoke execute on function farebox.create_tickets(json), farebox.create_ticket(json), farebox.get_ticket(uuid,
  uuid), farebox.tickets_by_phone(uuid, text, int, timestamptz, uuid), farebox.pending_tickets(uuid, int,
  timestamptz, uuid), farebox.company_summary(uuid, timestamptz, timestamptz), farebox.list_companies(int,
  uuid), farebox.list_routes(uuid, int, uuid), farebox.list_payment_codes(uuid, int, uuid),
  farebox.get_company(uuid), farebox.get_route(uuid, uuid), farebox.get_payment_code(uuid, text) from
  farebox_app;
revoke usage on schema farebox from farebox_app, farebox_worker, farebox_company, farebox_admin;
drop policy company_logins_admin on farebox.company_logins;
drop policy unapplied_payments_admin on farebox.unapplied_payments;
drop policy payment_codes_admin on farebox.payment_codes;
drop policy routes_admin on farebox.routes;
drop policy companies_admin on farebox.companies;
drop policy unapplied_payments_own_rows on farebox.unapplied_payments;
drop policy transactions_own_rows on farebox.transactions;
drop policy tickets_own_rows on farebox.tickets;
drop policy payment_codes_own_rows on farebox.payment_codes;
drop policy routes_own_rows on farebox.routes;
drop policy companies_own_rows on farebox.companies;
alter table farebox.tally disable row level security;
alter table farebox.ticket_queue_pauses disable row level security;
alter table farebox.ticket_queue_dead disable row level security;
alter table farebox.ticket_queue disable row level security;
alter table farebox.company_logins disable row level security;
alter table farebox.unapplied_payments disable row level security;
alter table farebox.transactions disable row level security;
alter table farebox.tickets disable row level security;
alter table farebox.payment_codes disable row level security;
alter table farebox.routes disable row level security;
alter table farebox.companies disable row level security;
reset role;
