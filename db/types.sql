set role farebox_owner;

create type farebox.ticket_outcome as (
  ordinal int,
  monime_transaction_id text,
  outcome text,
  reason text,
  ticket_id uuid,
  existing_ticket_id uuid,
  differing text[],
  transaction_recorded boolean
);
comment on type farebox.ticket_outcome is
  'What became of one element of a batch: created, duplicate, conflict or rejected';

create type farebox.catalog_outcome as (
  ordinal int,
  id uuid,
  outcome text,
  reason text
);
comment on type farebox.catalog_outcome is
  'What became of one company, route or payment code of a batch';

create type farebox.ticket_view as (
  id uuid,
  company_id uuid,
  route_id uuid,
  passenger_phone text,
  monime_transaction_id text,
  monime_otp text,
  payment_code_id uuid,
  payment_code text,
  amount bigint,
  commission_rate numeric(5,4),
  status text,
  created_at timestamptz
);
comment on type farebox.ticket_view is 'A ticket as the read functions return it, its code in clear';

create type farebox.violation as (
  invariant text,
  subject text,
  detail text
);
comment on type farebox.violation is 'One broken invariant: its name, the row it was found on, what is wrong there';

-- Internal: one element of a batch on its way through create_tickets. `reason` is null while nothing speaks
-- against a ticket; `ticket_id` is drawn beforehand, so that what was inserted is known without reading it back.
create type farebox._ticket_request as (
  ordinal int,
  given_id text,
  transaction_id text,
  company_id uuid,
  route_id uuid,
  passenger_phone text,
  monime_otp text,
  payment_code text,
  payment_code_id uuid,
  amount bigint,
  commission_rate numeric,
  reason text,
  ticket_id uuid
);
comment on type farebox._ticket_request is 'Internal: one element of a batch on its way through create_tickets';

reset role;
