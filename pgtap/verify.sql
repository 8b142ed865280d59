-- verify: one row for each broken invariant of the whole database; no row when all is well.
begin;
select plan(27);

insert into farebox.companies (id, name) values
  ('c0000000-0000-7000-8000-000000000001', 'Cotton Tree'), ('c0000000-0000-7000-8000-000000000002', 'Lion Mountain');
insert into farebox.routes (id, company_id, name, origin, destination, fare) values
  ('d0000000-0000-7000-8000-000000000001', 'c0000000-0000-7000-8000-000000000001', 'Freetown - Bo', 'Freetown', 'Bo', 5000),
  ('d0000000-0000-7000-8000-000000000002', 'c0000000-0000-7000-8000-000000000002', 'Lumley - Aberdeen', 'Lumley', 'Aberdeen', 500);
insert into farebox.payment_codes (id, company_id, code, total_tickets) values
  ('f0000000-0000-7000-8000-000000000001', 'c0000000-0000-7000-8000-000000000001', 'HALF', 4),
  ('f0000000-0000-7000-8000-000000000002', 'c0000000-0000-7000-8000-000000000001', 'SPENT', 1),
  ('f0000000-0000-7000-8000-000000000003', 'c0000000-0000-7000-8000-000000000001', 'UNUSED', 1),
  ('f0000000-0000-7000-8000-000000000004', 'c0000000-0000-7000-8000-000000000002', 'FOREIGN', 1);

select is_empty('select * from farebox.verify()', 'an empty house is in order');

-- Every kind of row that is in order: with and without a code, with an odd commission, spent codes, kept and resolved payments.
select lives_ok($$
  select farebox.create_tickets((
    select json_agg(json_build_object('company_id', 'c0000000-0000-7000-8000-000000000001', 'route_id', v.route, 'passenger_phone', v.phone,
      'monime_otp', '482913', 'amount', v.amount, 'payment_code', v.code, 'monime_transaction_id', v.id))
    from (values
      ('plain', 'd0000000-0000-7000-8000-000000000001', '+23276123456', 50, null),
      ('half-1', 'd0000000-0000-7000-8000-000000000001', '+23276123456', 5000, 'HALF'),
      ('half-2', 'd0000000-0000-7000-8000-000000000001', '+23276123456', 5000, 'HALF'),
      ('spent', 'd0000000-0000-7000-8000-000000000001', '+23276123456', 5000, 'SPENT'),
      ('too many', 'd0000000-0000-7000-8000-000000000001', '+23276123456', 5000, 'SPENT'),
      ('masked', 'd0000000-0000-7000-8000-000000000001', '+23276***456', 5000, null),
      ('masked', 'd0000000-0000-7000-8000-000000000001', '+23276123456', 5000, null)) as v(id, route, phone, amount, code)))$$,
  'a house with tickets, codes, records, kept and resolved payments');
select is_empty('select * from farebox.verify()', 'is in order');

-- Each invariant is broken alone and put back: the rows that verify() finds, and no others.
alter table farebox.payment_codes drop constraint payment_codes_used_is_within_total;
alter table farebox.payment_codes disable trigger payment_codes_spent_is_not_active;
alter table farebox.transactions drop constraint transactions_net_amount_is_the_rest;
-- Short names for what is broken, so that what verify() says can be written down here.
create function pg_temp.broken(p_damage text) returns setof text
language plpgsql as $$
declare
  v_found text[];
begin
  execute p_damage;
  select array_agg(format('%s, %s: %s', v.invariant, v.subject, v.detail) order by v.invariant, v.subject) into v_found
  from (
    select v.invariant,
      coalesce(replace(v.subject, k.id::text, k.code), replace(v.subject, t.id::text, t.monime_transaction_id), v.subject) as subject,
      regexp_replace(v.detail, '[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{11}', 'id ', 'g') as detail
    from farebox.verify() as v
    left join farebox.payment_codes as k on v.subject like '% ' || k.id
    left join farebox.tickets as t on v.subject like '% ' || t.id
  ) as v;
  raise exception using errcode = 'UNDO0', message = array_to_json(v_found)::text;
exception when sqlstate 'UNDO0' then
  return query select json_array_elements_text(sqlerrm::json);
end
$$;

select results_eq(format('select * from pg_temp.broken(%L)', c.damage), c.found, c.what)
from (values
  ('a counter below the tickets', $$update farebox.payment_codes set used_tickets = 1 where code = 'HALF'$$,
    array['code_counter_is_exact, payment_code HALF: used_tickets is 1, 2 tickets carry the code']),
  ('a counter above the tickets', $$update farebox.payment_codes set used_tickets = 3 where code = 'HALF'$$,
    array['code_counter_is_exact, payment_code HALF: used_tickets is 3, 2 tickets carry the code']),
  ('a counter without any ticket', $$update farebox.payment_codes set used_tickets = 1, status = 'expired' where code = 'UNUSED'$$,
    array['code_counter_is_exact, payment_code UNUSED: used_tickets is 1, 0 tickets carry the code']),
  ('a code over its limit', $$update farebox.payment_codes set total_tickets = 1 where code = 'HALF'$$,
    array['code_is_within_limit, payment_code HALF: 2 of 1 tickets used']),
  ('more tickets than the limit, the counter not knowing it', $$update farebox.payment_codes set used_tickets = 0, total_tickets = 1 where code = 'HALF'$$,
    array['code_counter_is_exact, payment_code HALF: used_tickets is 0, 2 tickets carry the code',
      'code_is_within_limit, payment_code HALF: 2 of 1 tickets used']),
  ('a spent code still active', $$update farebox.payment_codes set status = 'active' where code = 'SPENT'$$,
    array['spent_code_is_not_active, payment_code SPENT: all 1 tickets used, still active']),
  ('a ticket without its record',
    $$delete from farebox.transactions where ticket_id = (select id from farebox.tickets where monime_transaction_id = 'plain')$$,
    array['ticket_has_record, ticket plain: no transaction record; farebox.record_missing_transactions() writes it']),
  ('a record without its ticket',
    $$insert into farebox.transactions (ticket_id, company_id, amount, commission, net_amount)
      values ('e0000000-0000-7000-8000-000000000009', 'c0000000-0000-7000-8000-000000000001', 100, 5, 95)$$,
    array['record_has_ticket, transaction e0000000-0000-7000-8000-000000000009: no such ticket, amount 100']),
  ('a record with the wrong commission',
    $$update farebox.transactions set commission = 2, net_amount = 48 where amount = 50$$,
    array['record_agrees_with_ticket, transaction plain: amount 50, commission 2, net amount 48, company id 1; the ticket says amount 50, commission 3, company id 1']),
  ('a record with another amount',
    $$update farebox.transactions set amount = 60, net_amount = 57 where amount = 50$$,
    array['record_agrees_with_ticket, transaction plain: amount 60, commission 3, net amount 57, company id 1; the ticket says amount 50, commission 3, company id 1']),
  ('a record with the wrong rest',
    $$update farebox.transactions set net_amount = 46 where amount = 50$$,
    array['record_agrees_with_ticket, transaction plain: amount 50, commission 3, net amount 46, company id 1; the ticket says amount 50, commission 3, company id 1']),
  ('a record of another company',
    $$update farebox.transactions set company_id = 'c0000000-0000-7000-8000-000000000002' where amount = 50$$,
    array['record_agrees_with_ticket, transaction plain: amount 50, commission 3, net amount 47, company id 2; the ticket says amount 50, commission 3, company id 1']),
  ('a ticket of no route',
    $$update farebox.tickets set route_id = 'd0000000-0000-7000-8000-000000000009' where monime_transaction_id = 'plain'$$,
    array['ticket_has_its_route, ticket plain: route id 9 does not exist or is not of company id 1']),
  ('a ticket of another company''s route',
    $$update farebox.tickets set route_id = 'd0000000-0000-7000-8000-000000000002' where monime_transaction_id = 'plain'$$,
    array['ticket_has_its_route, ticket plain: route id 2 does not exist or is not of company id 1']),
  ('a ticket of no code',
    $$update farebox.tickets set payment_code_id = 'f0000000-0000-7000-8000-000000000009' where monime_transaction_id = 'plain'$$,
    array['ticket_has_its_code, ticket plain: payment code id 9 does not exist or is not of company id 1']),
  ('a ticket of another company''s code',
    $$update farebox.tickets set payment_code_id = 'f0000000-0000-7000-8000-000000000004' where monime_transaction_id = 'plain';
      update farebox.payment_codes set used_tickets = 1, status = 'expired' where code = 'FOREIGN'$$,
    array['ticket_has_its_code, ticket plain: payment code id 4 does not exist or is not of company id 1']),
  ('a payment resolved by no ticket',
    $$update farebox.unapplied_payments set ticket_id = 'e0000000-0000-7000-8000-000000000009' where monime_transaction_id = 'masked'$$,
    array['resolved_payment_has_ticket, payment masked: resolved by ticket id 9, which does not exist or is another payment''s'])
) as c(what, damage, found);
select is((select count(*) from pg_temp.broken(
  $$update farebox.unapplied_payments set ticket_id = (select ticket_id from farebox.transactions where amount = 50)
    where monime_transaction_id = 'masked'$$) as b(found) where found like 'resolved_payment_has_ticket, payment masked: %'), 1::bigint,
  'a payment resolved by another payment''s ticket');
select is_empty('select * from farebox.verify()', 'all put back: in order again');

-- Privileges ---------------------------------------------------------------------------------------------------

select lives_ok(format('set local role %I; select farebox.verify(); reset role', r.role), r.role || ' may')
from unnest(array['farebox_worker', 'farebox_admin']) as r(role);
select throws_ok(format('set local role %I; select farebox.verify()', r.role), '42501', null, r.role || ' may not')
from unnest(array['farebox_app', 'farebox_company', 'pg_monitor']) as r(role);

select * from finish(true);
rollback;
