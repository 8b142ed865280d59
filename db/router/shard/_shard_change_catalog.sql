-- Purpose: the router's part of a batch of companies, routes or codes.
-- Parameters: p_function, which; the others one element each: p_at, ignored here; p_partitions, p_ordinals as text; p_retaken, codes that
--   came back to a company of this shard: see _take_back; p_batches.  Returns: the outcomes.  Raises: 55P03.
set role farebox_owner;

create or replace function farebox._shard_change_catalog(p_at int[], p_function text, p_partitions text[], p_ordinals text[],
  p_retaken text[], p_batches text[])
returns setof farebox.catalog_outcome
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
declare
  v_ordinals int[] := p_ordinals[1]::int[];
begin
  perform farebox._require_partitions(p_partitions[1]::int[]);
  perform farebox._take_back('c', p_retaken[1]);
  -- The claims of this call may have been given up since they were made.
  if p_function = 'issue_payment_codes' and exists (
    select from (
      select farebox._json_object(e.value) as object from json_array_elements(p_batches[1]::json) as e offset 0) as e
    join farebox.foreign_subjects as f
      on f.kind = 'c' and f.subject = farebox._jsonb_text(e.object, 'code') collate "C"
      and f.company_id = farebox._uuid(farebox._jsonb_text(e.object, 'company_id')))
  then
    raise exception using errcode = 'lock_not_available',
      message = 'a code is on its way to another company',
      hint = 'ask again';
  end if;

  return query
    select v_ordinals[o.ordinal], o.id, o.outcome, o.reason
    from (
      select u.* from farebox.upsert_companies(p_batches[1]::json) as u where p_function = 'upsert_companies'
      union all
      select u.* from farebox.upsert_routes(p_batches[1]::json) as u where p_function = 'upsert_routes'
      union all
      select u.* from farebox.issue_payment_codes(p_batches[1]::json) as u where p_function = 'issue_payment_codes'
      union all
      select u.* from farebox.cancel_payment_codes(p_batches[1]::json) as u where p_function = 'cancel_payment_codes'
    ) as o;
end
$$;

comment on function farebox._shard_change_catalog(int[], text, text[], text[], text[], text[]) is
  'For the router: its part of a batch of companies, routes or codes';

reset role;
