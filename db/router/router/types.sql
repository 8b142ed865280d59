set role farebox_owner;

do $$
begin
  if to_regtype('farebox._routed_element') is null then
    -- One element of a batch on its way through the router. `at` and `home_at` name the shards of its company and of its payment (or
    -- code) in the registry, as farebox.partitions does; `home_at` is null where nothing is to be claimed. `reason`: answered here.
    create type farebox._routed_element as (
      ordinal int,
      given_id text,
      subject text,
      company_id uuid,
      partition int,
      at int,
      home int,
      home_at int,
      reason text,
      request json
    );
    -- What the registry says about a payment or code: whose it is where it is not simply the asking company's. `resolve_ats`: where an
    -- unapplied payment waits for its ticket.
    create type farebox._routed_claim as (
      subject text,
      asking uuid,
      number int,
      reason text,
      ticket_id uuid,
      resolve_ats int[]
    );
  end if;
end
$$;
comment on type farebox._routed_element is 'Internal: one element of a batch on its way through the router';
comment on type farebox._routed_claim is 'Internal: what the registry says about a payment or code that is not simply the asking company''s';

reset role;
