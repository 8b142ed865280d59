-- Who may do what. Nothing for PUBLIC; functions and tables not named here are the owner's alone.
set role farebox_owner;

grant usage on schema farebox to farebox_app, farebox_worker, farebox_company, farebox_admin;

-- Applications: create and read, by function; no table.
grant execute on function
  farebox.create_tickets(json),
  farebox.create_ticket(json),
  farebox.get_ticket(uuid, uuid),
  farebox.tickets_by_phone(uuid, text, int, timestamptz, uuid),
  farebox.pending_tickets(uuid, int, timestamptz, uuid),
  farebox.company_summary(uuid, timestamptz, timestamptz),
  farebox.list_companies(int, uuid),
  farebox.list_routes(uuid, int, uuid),
  farebox.list_payment_codes(uuid, int, uuid),
  farebox.get_company(uuid),
  farebox.get_route(uuid, uuid),
  farebox.get_payment_code(uuid, text)
to farebox_app;
grant execute on function
  farebox.enqueue_tickets(json),
  farebox.queued_outcomes(bigint[], json),
  farebox.queue_size()
to farebox_app;

-- Workers and administrators: what keeps the house in order; no table for workers.
grant execute on function
  farebox.record_missing_transactions(int),
  farebox.apply_unapplied_payments(int, text),
  farebox.expire_payment_codes(int),
  farebox.verify(),
  farebox.analyze_tables(double precision),
  farebox.purge_unapplied_payments(timestamptz, int),
  farebox.purge_dead_requests(timestamptz, int),
  farebox.metrics_tickets(),
  farebox.metrics_retries(),
  farebox.metrics_batches(),
  farebox.metrics_unapplied(),
  farebox.metrics_codes(),
  farebox.metrics_storage(),
  farebox.metrics_server(),
  farebox.metrics_activity(int),
  farebox.queue_metrics()
to farebox_worker, farebox_admin;

-- Workers alone: the queue.
grant execute on function
  farebox.process_ticket_queue(int),
  farebox.begin_queued_request(boolean),
  farebox.process_queued_request(bigint),
  farebox.blameless_errors()
to farebox_worker;
grant execute on procedure farebox.drain_ticket_queue(int, int) to farebox_worker;

-- Administrators: companies, routes, codes, unapplied payments.
grant execute on function
  farebox.upsert_companies(json),
  farebox.upsert_routes(json),
  farebox.issue_payment_codes(json),
  farebox.cancel_payment_codes(json),
  farebox.list_companies(int, uuid),
  farebox.list_routes(uuid, int, uuid),
  farebox.list_payment_codes(uuid, int, uuid),
  farebox.list_unapplied_payments(int, text, timestamptz, text, boolean),
  farebox.get_company(uuid),
  farebox.get_route(uuid, uuid),
  farebox.get_payment_code(uuid, text),
  farebox.bind_company_login(name, uuid),
  -- for the defaults of the tables below
  farebox._uuid_v7(),
  farebox._now()
to farebox_admin;
grant select, insert, update, delete on farebox.company_logins to farebox_admin;
grant select, insert, delete on farebox.companies, farebox.routes to farebox_admin;
-- Not their ids, nor a route's company: tickets name them, and no foreign key keeps them.
grant update (name, monime_account_id, commission_rate, status) on farebox.companies to farebox_admin;
grant update (name, origin, destination, fare, status) on farebox.routes to farebox_admin;
-- Not used_tickets: the counter belongs to the tickets.
grant select, delete on farebox.payment_codes to farebox_admin;
grant insert (id, company_id, route_id, code, total_tickets, expires_at, created_at) on farebox.payment_codes to farebox_admin;
grant update (total_tickets, status, expires_at) on farebox.payment_codes to farebox_admin;
grant select on farebox.unapplied_payments to farebox_admin;

grant execute on function
  farebox.queue_size(),
  farebox.list_queued_requests(int, uuid, text, text, bigint),
  farebox.list_dead_requests(int, uuid, text, text, timestamptz, text),
  farebox.retry_queued_requests(text[]),
  farebox.drop_queued_requests(text[]),
  farebox.pause_company_queue(uuid),
  farebox.resume_company_queue(uuid),
  farebox.list_paused_companies()
to farebox_admin;

-- Companies: their own rows, by the policies.
grant select on farebox.companies, farebox.routes, farebox.payment_codes, farebox.tickets, farebox.transactions,
  farebox.unapplied_payments to farebox_company;
grant execute on function farebox._login_company() to farebox_company;

reset role;
