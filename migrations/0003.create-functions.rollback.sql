-- Undoes 0003.create-functions. Made from db/ by tests/tools/freeze_migrations.py; see README.md here.

set role farebox_owner;
drop trigger payment_codes_notify_update on farebox.payment_codes;
drop trigger payment_codes_notify_truncate on farebox.payment_codes;
drop trigger payment_codes_notify_delete on farebox.payment_codes;
drop trigger routes_notify_truncate on farebox.routes;
drop trigger routes_notify_delete on farebox.routes;
drop trigger routes_notify_update on farebox.routes;
drop trigger companies_notify_truncate on farebox.companies;
drop trigger companies_notify_delete on farebox.companies;
drop trigger companies_notify_update on farebox.companies;
drop function farebox._notify_catalog();
drop trigger payment_codes_with_tickets_stay on farebox.payment_codes;
drop trigger payment_codes_lock_tickets on farebox.payment_codes;
drop trigger routes_with_tickets_stay on farebox.routes;
drop trigger routes_lock_tickets on farebox.routes;
drop function farebox._refuse_delete_when_sold();
drop trigger payment_codes_spent_is_not_active on farebox.payment_codes;
drop trigger payment_codes_status_follows_terms on farebox.payment_codes;
drop function farebox._follow_code_terms();
drop function farebox._login_company();
drop function farebox.bind_company_login(p_login name, p_company_id uuid);
drop function farebox.analyze_tables(p_share double precision);
drop function farebox.purge_dead_requests(p_before timestamptz, p_limit int);
drop function farebox.purge_unapplied_payments(p_before timestamptz, p_limit int);
drop function farebox.metrics_activity(p_tickets int);
drop function farebox.metrics_server();
drop function farebox.metrics_storage();
drop function farebox.metrics_codes();
drop function farebox.metrics_unapplied();
drop function farebox.metrics_batches();
drop function farebox.metrics_retries();
drop function farebox.metrics_tickets();
drop function farebox.list_paused_companies();
drop function farebox.resume_company_queue(p_company_id uuid);
drop function farebox.pause_company_queue(p_company_id uuid);
drop function farebox.drop_queued_requests(p_keys text[]);
drop function farebox.retry_queued_requests(p_keys text[]);
drop function farebox.list_dead_requests(p_limit int, p_company_id uuid, p_transaction_id text, p_reason text,
  p_after_last_seen_at timestamptz, p_after_key text);
drop function farebox.list_queued_requests(p_limit int, p_company_id uuid, p_transaction_id text, p_state
  text, p_after_queue_id bigint);
drop function farebox.queue_metrics();
drop function farebox.queue_size();
drop function farebox.queued_outcomes(p_queue_ids bigint[], p_batch json);
drop procedure farebox.drain_ticket_queue(p_limit int, p_batches int);
drop function farebox.process_queued_request(p_queue_id bigint);
drop function farebox.begin_queued_request(p_unfinished_only boolean);
drop function farebox.process_ticket_queue(p_limit int);
drop function farebox._process_requests(p_ids bigint[], p_places tid[], p_batch json, p_begun boolean, out
  taken int, out created int, out duplicates int, out conflicts int, out rejected int, out retried int, out
  dead int);
drop function farebox._count_retries(p_retries int, p_given_up int);
drop function farebox._give_up_request(p_request farebox.ticket_queue, p_reason text, p_now timestamptz);
drop function farebox._keep_dead_requests(p_queue_ids bigint[], p_reasons text[], p_details text[], p_now
  timestamptz);
drop function farebox._claim_requests(p_limit int, p_most_due int, p_with_care boolean, out ids bigint[], out
  places tid[], out batch json);
drop function farebox._raise_queue_floor(p_first bigint);
drop function farebox._hold_queue_floor();
drop function farebox.enqueue_tickets(p_batch json);
drop function farebox._read_queue_keys(p_keys text[], out queue_ids bigint[], out transaction_ids text[]);
drop function farebox._is_given_up(p_reason text);
drop function farebox._backoff(p_attempts int);
drop function farebox._wake_workers();
drop function farebox._queued_payment(p_request json, out company_id uuid, out transaction_id text);
drop function farebox.verify();
drop function farebox.company_summary(p_company_id uuid, p_from timestamptz, p_to timestamptz);
drop function farebox.pending_tickets(p_company_id uuid, p_limit int, p_after_created_at timestamptz,
  p_after_id uuid);
drop function farebox.tickets_by_phone(p_company_id uuid, p_phone text, p_limit int, p_before_created_at
  timestamptz, p_before_id uuid);
drop function farebox.get_ticket(p_ticket_id uuid, p_company_id uuid);
drop function farebox.get_payment_code(p_company_id uuid, p_code text);
drop function farebox.get_route(p_company_id uuid, p_route_id uuid);
drop function farebox.get_company(p_company_id uuid);
drop function farebox.list_unapplied_payments(p_limit int, p_reason text, p_after_last_seen_at timestamptz,
  p_after_transaction_id text, p_include_resolved boolean);
drop function farebox.list_payment_codes(p_company_id uuid, p_limit int, p_after_id uuid);
drop function farebox.list_routes(p_company_id uuid, p_limit int, p_after_id uuid);
drop function farebox.list_companies(p_limit int, p_after_id uuid);
drop function farebox.expire_payment_codes(p_limit int);
drop function farebox.cancel_payment_codes(p_batch json);
drop function farebox.issue_payment_codes(p_batch json);
drop function farebox._lock_codes(p_batch json);
drop function farebox.upsert_routes(p_batch json);
drop function farebox.upsert_companies(p_batch json);
drop function farebox.apply_unapplied_payments(p_limit int, p_reason text);
drop function farebox._is_blameless(p_sqlstate text);
drop function farebox.blameless_errors();
drop function farebox.record_missing_transactions(p_limit int);
drop function farebox.create_ticket(p_ticket json);
drop function farebox.create_tickets(p_batch json);
drop function farebox._keep_unapplied_payments(p_batch json, p_requests farebox._ticket_request[], p_outcomes
  farebox.ticket_outcome[], p_now timestamptz);
drop function farebox._settle_records(p_outcomes farebox.ticket_outcome[], p_now timestamptz);
drop function farebox._record_transactions(p_tickets farebox._ticket_request[], p_now timestamptz, out written
  int, out missing uuid[]);
drop function farebox._record_of(p_ticket farebox.tickets);
drop function farebox._judge_requests(p_requests farebox._ticket_request[], p_created int);
drop function farebox._charge_codes(p_codes uuid[], p_uses int[], p_is_spent boolean[]);
drop function farebox._count_uses(p_requests farebox._ticket_request[], out codes uuid[], out uses int[], out
  is_spent boolean[]);
drop function farebox._insert_tickets(p_requests farebox._ticket_request[], p_now timestamptz, p_is_new
  boolean);
drop function farebox._allocate_codes(p_requests farebox._ticket_request[], out requests
  farebox._ticket_request[], out winners int);
drop function farebox._own_requests(p_requests farebox._ticket_request[]);
drop function farebox._look_up_codes(p_requests farebox._ticket_request[], p_is_new boolean, p_is_again
  boolean, p_now timestamptz, out requests farebox._ticket_request[], out codes uuid[], out uses int[], out
  runs_out boolean);
drop function farebox._read_requests(p_batch json, p_is_clean boolean, out requests farebox._ticket_request[],
  out has_code boolean, out transaction_ids text[]);
drop function farebox._batch_id();
drop function farebox._answer_replay(p_batch json);
drop function farebox._count_outcomes(p_duplicates int, p_conflicts int, p_rejections int);
drop function farebox._looks_replayed(p_batch json);
drop function farebox._differing(p_route_id uuid, p_phone text, p_code text, p_otp text, p_amount bigint,
  p_new_route_id uuid, p_new_phone text, p_new_code text, p_new_otp text, p_new_amount bigint);
drop function farebox._parse_batch(p_batch json);
drop function farebox._shown(p_text text);
drop function farebox._otp(p_text text);
drop function farebox._shallow_json(p_batch json);
drop function farebox._clean_batch(p_batch json);
drop function farebox._check_limit(p_limit int, p_most int);
drop function farebox._batch_length(p_batch json);
drop function farebox._code_refusal(p_status text, p_used int, p_total int, p_expires_at timestamptz, p_now
  timestamptz);
drop function farebox._commission(p_amount bigint, p_rate numeric);
drop function farebox._timestamp(p_text text);
drop function farebox._uuid(p_text text);
drop function farebox._amount(p_text text);
drop function farebox._phone(p_text text);
drop function farebox._number(p_text text, p_low numeric, p_high numeric, p_scale int);
drop function farebox._jsonb_text(p_object jsonb, p_key text);
drop function farebox._json_object(p_element json);
drop function farebox._trimmed(p_text text);
reset role;
