-- Purpose: the shards that are taken for lost for now, and what is found out about them.
-- A shard found lost is left alone for twenty times as long as that took to find out, five seconds at most: a refused connection costs a
-- millisecond, and is tried again at once; a shard that does not answer at all is asked by one caller at a time.
-- _down_untils() is made by `farebox shards`: a row for each shard, its place in the map and the value of its sequence.
set role farebox_owner;

create or replace function farebox._shards_down()
returns int[]
language plpgsql volatile security invoker
as $$
declare
  v_clock bigint := (date_part('epoch', clock_timestamp()) * 1000)::bigint;
  v_down int[] := '{}'::int[];
  v_shard record;
begin
  -- A loop over the shards that were found lost: usually none.
  for v_shard in select d.shard, d.at, d.until from farebox._down_untils() as d where d.until > 0 loop
    if v_shard.until > v_clock and v_shard.until < v_clock + 60000 then
      v_down := v_down || v_shard.at;
      continue;
    end if;
    -- One caller looks; meanwhile the others go on without that shard.
    perform setval(farebox._down_sequence(v_shard.shard), v_clock + 5000);
    if farebox._is_lost(v_shard.at) then
      v_down := v_down || v_shard.at;
    end if;
  end loop;
  return v_down;
end
$$;
comment on function farebox._shards_down() is 'Internal: the shards taken for lost, by their place in the map';

create or replace function farebox._is_lost(p_at int)
returns boolean
language plpgsql volatile security invoker
as $$
declare
  v_sequence text := (select farebox._down_sequence(p.shard) from farebox.partitions as p where p.at = p_at limit 1);
  v_start timestamptz := clock_timestamp();
  v_clock bigint;
begin
  perform farebox._at_ping(p_at);
  perform setval(v_sequence, 0);
  return false;
exception when others or query_canceled then
  if not farebox._is_lost_shard(sqlstate, sqlerrm) or sqlstate = '57014' and sqlerrm not like '%REMOTE%' then
    raise;
  end if;
  v_clock := (date_part('epoch', clock_timestamp()) * 1000)::bigint;
  perform setval(v_sequence,
    v_clock + least(5000, greatest(1, 20 * (date_part('epoch', clock_timestamp() - v_start) * 1000)::bigint)));
  return true;
end
$$;
-- For handlers of errors: which of these shards do not answer. Raises unless the error means that a shard is lost.
create or replace function farebox._find_lost(p_ats int[], p_sqlstate text, p_message text)
returns int[]
language plpgsql volatile security invoker
as $$
begin
  perform farebox._skip_lost_shard(p_sqlstate, p_message);
  return array(select a.at from unnest(p_ats) as a(at) where farebox._is_lost(a.at));
end
$$;
comment on function farebox._find_lost(int[], text, text) is 'Internal: after an error that means a lost shard: which of these do not answer';
comment on function farebox._is_lost(int) is 'Internal: asks a shard whether it is there, and remembers the answer for a while';

reset role;
