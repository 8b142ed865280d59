-- Purpose: a number by its value, however it is written, the same on every server version (16 and later would take 0x10 and 1_000 too).
-- Parameters: p_text; the range p_low..p_high; p_scale, the decimals allowed.
-- Returns: the number, or null when the text is no number, out of the range, or has more decimals that are not 0.
set role farebox_owner;

create function farebox._number(p_text text, p_low numeric, p_high numeric, p_scale int)
returns numeric
language plpgsql immutable strict security invoker parallel safe
as $$
declare
  v_text text := farebox._trimmed(p_text);
  v_number numeric;
begin
  -- The exponent is kept short enough for numeric never to overflow; a longer one is out of any range used here.
  if length(v_text) > 1000
    or v_text collate "C" !~ '^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?0*[0-9]{1,3})?$'
  then
    return null;
  end if;
  v_number := v_text::numeric;
  if v_number between p_low and p_high and v_number = round(v_number, p_scale) then
    return v_number;
  end if;
  return null;
end
$$;

comment on function farebox._number(text, numeric, numeric, int) is
  'A number by its value, null when it is none, out of range or too fine';

reset role;
