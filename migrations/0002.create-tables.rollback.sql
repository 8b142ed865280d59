-- Undoes 0002.create-tables. Made from db/ by tests/tools/freeze_migrations.py; see README.md here.

set role farebox_owner;
drop table farebox.tally;
drop table farebox.ticket_queue_pauses;
drop table farebox.ticket_queue_dead;
drop table farebox.ticket_queue;
drop sequence farebox.ticket_queue_watch;
drop sequence farebox.ticket_queue_bell;
drop sequence farebox.ticket_queue_sweep;
drop sequence farebox.ticket_queue_tick;
drop sequence farebox.ticket_queue_generation;
drop sequence farebox.ticket_queue_next_floor;
drop sequence farebox.ticket_queue_floor;
drop sequence farebox.ticket_queue_ids;
drop table farebox.company_logins;
drop table farebox.unapplied_payments;
drop table farebox.transactions;
drop table farebox.tickets;
drop table farebox.payment_codes;
drop table farebox.routes;
drop table farebox.companies;
reset role;
