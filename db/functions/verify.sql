-- Purpose: proves the whole database: one row for each broken invariant, none when all is well. Safe under load: one statement, one snapshot.
-- Returns: the invariant's name, the row it was found on, what is wrong there.
set role farebox_owner;

create function farebox.verify()
returns setof farebox.violation
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
set jit = off
as $$
begin
  return query
    with carried as (
      select t.payment_code_id, count(*) as tickets
      from farebox.tickets as t
      where t.payment_code_id is not null
      group by t.payment_code_id
    )
    select 'code_counter_is_exact', 'payment_code ' || k.id,
      format('used_tickets is %s, %s tickets carry the code', k.used_tickets, coalesce(c.tickets, 0))
    from farebox.payment_codes as k
    left join carried as c on c.payment_code_id = k.id
    where k.used_tickets <> coalesce(c.tickets, 0)

    union all
    select 'code_is_within_limit', 'payment_code ' || k.id,
      format('%s of %s tickets used', greatest(k.used_tickets, c.tickets), k.total_tickets)
    from farebox.payment_codes as k
    left join carried as c on c.payment_code_id = k.id
    where greatest(k.used_tickets, c.tickets) > k.total_tickets

    union all
    select 'spent_code_is_not_active', 'payment_code ' || k.id, format('all %s tickets used, still active', k.total_tickets)
    from farebox.payment_codes as k
    where k.status = 'active' and k.used_tickets >= k.total_tickets

    union all
    select 'ticket_has_record', 'ticket ' || t.id, 'no transaction record; farebox.record_missing_transactions() writes it'
    from farebox.tickets as t
    where not exists (select from farebox.transactions as x where x.ticket_id = t.id)

    union all
    select 'record_has_ticket', 'transaction ' || x.ticket_id, format('no such ticket, amount %s', x.amount)
    from farebox.transactions as x
    where not exists (select from farebox.tickets as t where t.id = x.ticket_id)

    union all
    select 'record_agrees_with_ticket', 'transaction ' || x.ticket_id,
      format('amount %s, commission %s, net amount %s, company %s; the ticket says amount %s, commission %s, company %s',
        x.amount, x.commission, x.net_amount, x.company_id, t.amount, farebox._commission(t.amount, t.commission_rate), t.company_id)
    from farebox.transactions as x
    join farebox.tickets as t on t.id = x.ticket_id
    where x.amount <> t.amount or x.company_id <> t.company_id
      or x.commission <> farebox._commission(t.amount, t.commission_rate) or x.net_amount <> x.amount - x.commission

    union all
    select 'ticket_has_its_route', 'ticket ' || t.id, format('route %s does not exist or is not of company %s', t.route_id, t.company_id)
    from farebox.tickets as t
    where not exists (select from farebox.routes as r where r.id = t.route_id and r.company_id = t.company_id)

    union all
    select 'ticket_has_its_code', 'ticket ' || t.id,
      format('payment code %s does not exist or is not of company %s', t.payment_code_id, t.company_id)
    from farebox.tickets as t
    where t.payment_code_id is not null
      and not exists (select from farebox.payment_codes as k where k.id = t.payment_code_id and k.company_id = t.company_id)

    union all
    select 'resolved_payment_has_ticket', 'payment ' || u.monime_transaction_id,
      format('resolved by ticket %s, which does not exist or is another payment''s', u.ticket_id)
    from farebox.unapplied_payments as u
    where u.resolved_at is not null
      and not exists (select from farebox.tickets as t where t.id = u.ticket_id and t.monime_transaction_id = u.monime_transaction_id);
end
$$;

comment on function farebox.verify() is 'One row for each broken invariant of the whole database; no row when all is well';

reset role;
