set role farebox_owner;

create table farebox.routes (
  id uuid default farebox._uuid_v7() not null,
  company_id uuid not null,
  name text not null,
  origin text default '' not null,
  destination text default '' not null,
  fare bigint not null,
  status text collate "C" default 'active' not null,
  created_at timestamptz default farebox._now() not null,
  constraint routes_pkey primary key (id),
  constraint routes_company_exists foreign key (company_id) references farebox.companies (id),
  constraint routes_name_is_present check (btrim(name) <> ''),
  constraint routes_fare_is_in_range check (fare between 1 and 1000000000000),
  constraint routes_status_is_known check (status in ('active', 'inactive'))
);

-- Serves list_routes (keyset by id) and the foreign key's look-up when a company is deleted.
create index idx_routes_company on farebox.routes (company_id, id);

comment on table farebox.routes is 'A route of one company, with its fare';
comment on column farebox.routes.id is 'Time-ordered UUID';
comment on column farebox.routes.company_id is 'The company that runs the route';
comment on column farebox.routes.name is 'The name passengers know, for instance Freetown - Bo';
comment on column farebox.routes.origin is 'Where the route starts';
comment on column farebox.routes.destination is 'Where the route ends';
comment on column farebox.routes.fare is 'The usual fare in minor units (SLE 1 = 100); a payment may differ';
comment on column farebox.routes.status is 'active sells tickets, inactive does not';
comment on column farebox.routes.created_at is 'When the route was added, by the database''s clock';
comment on index farebox.idx_routes_company is 'Serves the list of a company''s routes';

-- Default privileges do not reach the row type of a table.
revoke all on type farebox.routes from public;

reset role;
