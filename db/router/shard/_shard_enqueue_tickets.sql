-- Purpose: the router's part of a batch is stored in this shard's queue.
-- Parameters: one element each, as _shard_create_tickets; p_denied, payments that are another company's, as p_retaken. They are
--   stored all the same, and refused when they are processed.
-- Returns: the queue ids; each shard has numbers of its own.  Raises: 55P03.
set role farebox_owner;

create or replace function farebox._shard_enqueue_tickets(p_at int[], p_partitions text[], p_ordinals text[], p_retaken text[],
  p_denied text[], p_batches text[])
returns table (ordinal int, queue_id bigint)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
declare
  v_ordinals int[] := p_ordinals[1]::int[];
begin
  perform farebox._require_partitions(p_partitions[1]::int[]);
  perform farebox._take_back('p', p_retaken[1]);
  if p_denied[1] <> '[]' then
    insert into farebox.foreign_subjects as f (kind, subject, company_id, number, since)
    select 'p', d.claim ->> 0, (d.claim ->> 1)::uuid, (d.claim ->> 2)::int, farebox._now()
    from json_array_elements(p_denied[1]::json) as d(claim)
    on conflict (subject, kind, company_id) do update set number = greatest(f.number, excluded.number);
  end if;
  return query select v_ordinals[q.ordinal], q.queue_id from farebox.enqueue_tickets(p_batches[1]::json) as q;
end
$$;

comment on function farebox._shard_enqueue_tickets(int[], text[], text[], text[], text[], text[]) is
  'For the router: its part of a batch is stored in the queue';

reset role;
