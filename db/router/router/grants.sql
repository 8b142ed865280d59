-- The tables of a router are empty: whoever reads them is told so, not shown nothing. A company's login reads its tables on its company's
-- shard. Functions keep the grants of db/grants.sql.
set role farebox_owner;

revoke all on all tables in schema farebox from farebox_company, farebox_admin, farebox_app, farebox_worker;
revoke execute on function farebox._login_company() from farebox_company;

reset role;
