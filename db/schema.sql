create schema farebox authorization farebox_owner;

set role farebox_owner;

comment on schema farebox is 'Farebox: mobile-money payments become bus tickets, exactly once each';

-- Nothing for PUBLIC, also not what later migrations add. PostgreSQL's own defaults are global, so the
-- revocation has to be global for the owner too: one that names the schema would take nothing away.
alter default privileges for role farebox_owner revoke execute on functions from public;
alter default privileges for role farebox_owner revoke usage on types from public;

reset role;
