-- Purpose: a router stores nothing of what is sold. If its functions were ever replaced by those of a database of its own (by a
--   migration that went past `farebox shards migrate`), it fails loudly instead of selling by itself.
-- Raises: 57P03: while a migration is under way this is over in a moment.
set role farebox_owner;

create or replace function farebox._refuse_rows()
returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  raise exception using errcode = 'cannot_connect_now',
    message = format('this database is a router: %I.%I stays empty', tg_table_schema, tg_table_name),
    hint = 'call the functions of the schema farebox; if they raise this, run: farebox shards migrate';
end
$$;

comment on function farebox._refuse_rows() is 'Trigger: a router stores nothing of what is sold';

do $$
declare
  v_table text;
begin
  foreach v_table in array array['companies', 'routes', 'payment_codes', 'tickets', 'transactions', 'unapplied_payments',
    'company_logins', 'ticket_queue', 'ticket_queue_dead', 'ticket_queue_pauses'] loop
    execute format('drop trigger if exists refuse_rows on farebox.%I', v_table);
    execute format('create trigger refuse_rows before insert on farebox.%I for each statement execute function farebox._refuse_rows()',
      v_table);
    execute format('comment on trigger refuse_rows on farebox.%I is %L', v_table, 'A router stores nothing of what is sold');
  end loop;
end
$$;

reset role;
