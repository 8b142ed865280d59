-- Purpose: a text in a form that the session can be sent: one character that its client_encoding lacks would cost the whole answer.
-- Parameters: p_text, may be null.  Returns: the text; when it holds such a character, with ? for all that is not printable ASCII.
set role farebox_owner;

create function farebox._shown(p_text text)
returns text
language plpgsql stable strict security invoker
as $$
begin
  perform convert_to(p_text, pg_client_encoding());
  return p_text;
exception when untranslatable_character then
  return regexp_replace(p_text, '[^ -~]', '?', 'g');
end
$$;

comment on function farebox._shown(text) is 'Internal: a text in characters that the session''s client_encoding has';

reset role;
