"""Section 6, read from the catalog: who owns what, who may do what, and nothing for PUBLIC."""

import pytest
from psycopg import sql

from tests.core.support import scalar
from tests.support.database import Database

_GROUPS = ("farebox_app", "farebox_worker", "farebox_company", "farebox_admin")

_READS_OF_THE_CATALOG = {
    *("list_companies", "list_routes", "list_payment_codes", "get_company", "get_route", "get_payment_code"),
}
_KEEPING_ORDER = {
    *("record_missing_transactions", "apply_unapplied_payments", "expire_payment_codes", "verify"),
    *("analyze_tables", "purge_unapplied_payments", "purge_dead_requests"),
    *("metrics_tickets", "metrics_retries", "metrics_batches", "metrics_unapplied", "metrics_codes"),
    *("metrics_storage", "metrics_server", "metrics_activity", "queue_metrics"),
}
# What each role may execute: all of it, and nothing else. A new function has to be entered here.
_MAY_EXECUTE = {
    "farebox_app": _READS_OF_THE_CATALOG
    | {"create_tickets", "create_ticket", "get_ticket", "tickets_by_phone", "pending_tickets"}
    | {"company_summary", "enqueue_tickets", "queued_outcomes", "queue_size"},
    "farebox_worker": _KEEPING_ORDER
    | {"process_ticket_queue", "drain_ticket_queue", "begin_queued_request", "process_queued_request"}
    | {"blameless_errors"},
    "farebox_company": {"_login_company"},
    "farebox_admin": _READS_OF_THE_CATALOG
    | _KEEPING_ORDER
    | {"upsert_companies", "upsert_routes", "issue_payment_codes", "cancel_payment_codes"}
    | {"list_unapplied_payments", "bind_company_login", "_uuid_v7", "_now"}
    | {"queue_size", "list_queued_requests", "list_dead_requests", "retry_queued_requests"}
    | {"drop_queued_requests", "pause_company_queue", "resume_company_queue", "list_paused_companies"},
}
# What each role may do with tables; not with the counter of a code, nor with what tickets name.
_MAY_TOUCH = {
    "farebox_app": set[str](),
    "farebox_worker": set[str](),
    "farebox_company": {
        f"{table}: SELECT"
        for table in (
            *("companies", "routes", "payment_codes", "tickets", "transactions", "unapplied_payments"),
        )
    },
    "farebox_admin": {
        *(
            f"{table}: {privilege}"
            for table in ("companies", "routes", "company_logins")
            for privilege in ("SELECT", "INSERT", "DELETE")
        ),
        *("company_logins: UPDATE", "payment_codes: SELECT", "payment_codes: DELETE"),
        "unapplied_payments: SELECT",
    },
}
_MAY_TOUCH_COLUMNS = {
    *(f"UPDATE companies.{column}" for column in ("name", "monime_account_id", "commission_rate", "status")),
    *(f"UPDATE routes.{column}" for column in ("name", "origin", "destination", "fare", "status")),
    *(f"INSERT payment_codes.{column}" for column in ("id", "company_id", "route_id", "code")),
    *(f"INSERT payment_codes.{column}" for column in ("total_tickets", "expires_at", "created_at")),
    *(f"UPDATE payment_codes.{column}" for column in ("total_tickets", "status", "expires_at")),
}


def test_everything_belongs_to_the_owner_who_cannot_log_in(db: Database) -> None:
    owners = db.execute(
        "select 'schema', nspname::text, nspowner::regrole::text from pg_namespace where nspname = 'farebox'"
        " union all select 'relation', relname, relowner::regrole::text from pg_class"
        " where relnamespace = 'farebox'::regnamespace"
        " union all select 'function', proname, proowner::regrole::text from pg_proc"
        " where pronamespace = 'farebox'::regnamespace"
        " union all select 'type', typname, typowner::regrole::text from pg_type"
        " where typnamespace = 'farebox'::regnamespace"
    )
    assert {kind for kind, _, _ in owners} == {"schema", "relation", "function", "type"}
    assert [row for row in owners if row[2] != "farebox_owner"] == []


def test_no_role_of_farebox_logs_in_or_has_powers_of_its_own(db: Database) -> None:
    roles = db.execute(
        "select rolname::text, rolcanlogin, rolsuper, rolcreaterole, rolcreatedb, rolreplication,"
        " rolbypassrls from pg_roles"
        # A router's login on its shards is neither: see test_setup of the shards.
        " where rolname like 'farebox%' and not starts_with(rolname, 'farebox_router_') order by 1"
    )
    assert roles == [(role, *[False] * 6) for role in sorted(("farebox_owner", *_GROUPS))]
    # None is a member of another, nor of anything that reads or runs what it likes.
    assert (
        db.execute(
            "select m.member::regrole::text, m.roleid::regrole::text from pg_auth_members as m"
            " where m.member::regrole::text = any (%s)",
            [["farebox_owner", *_GROUPS]],
        )
        == []
    )


def test_functions_with_their_owners_rights_pin_their_search_path(db: Database) -> None:
    """To pg_catalog, and the temporary schema named last, so that it is not searched first."""
    rows = db.execute(
        "select p.oid::regprocedure::text, s.setting from pg_proc as p left join lateral"
        " (select c as setting from unnest(p.proconfig) as c where c like 'search_path=%%') as s on true"
        " where p.pronamespace = 'farebox'::regnamespace and p.prosecdef",
        [],
    )
    assert len(rows) > 20
    assert {setting for _, setting in rows} == {"search_path=pg_catalog, pg_temp"}


def test_nothing_runs_outside_of_a_function_with_rights_of_its_own(db: Database) -> None:
    """What carries no rights of its own either pins its path as well, or is nobody's to call."""
    rows = db.execute(
        "select p.oid::regprocedure::text, r.rolname::text from pg_proc as p, pg_roles as r"
        " where p.pronamespace = 'farebox'::regnamespace and not p.prosecdef and r.rolname = any(%s)"
        " and has_function_privilege(r.oid, p.oid, 'execute')"
        " and not exists (select from unnest(p.proconfig) as c where c = 'search_path=pg_catalog, pg_temp')",
        [list(_GROUPS)],
    )
    # The defaults of the columns that administrators insert into; they run with their caller's rights.
    # A procedure that commits may neither pin settings nor lend rights: it only calls what does both.
    assert {name for name, _ in rows} <= {
        *("farebox._uuid_v7()", "farebox._now()", "farebox.drain_ticket_queue(integer,integer)")
    }


def test_public_has_nothing(db: Database) -> None:
    """Schema, tables, columns, sequences, functions, types; row types of tables and arrays included."""
    grants = db.execute(
        "with object (kind, name, acl) as ("
        " select 'schema', nspname::text, coalesce(nspacl, acldefault('n', nspowner)) from pg_namespace"
        " where nspname = 'farebox'"
        " union all select 'relation', relname, coalesce(relacl, acldefault(case relkind when 'S' then 's'"
        " else 'r' end::\"char\", relowner)) from pg_class where relnamespace = 'farebox'::regnamespace"
        " union all select 'column', c.relname || '.' || a.attname, a.attacl from pg_attribute as a"
        " join pg_class as c on c.oid = a.attrelid where c.relnamespace = 'farebox'::regnamespace"
        " union all select 'function', p.oid::regprocedure::text,"
        " coalesce(proacl, acldefault('f', proowner))"
        " from pg_proc as p where pronamespace = 'farebox'::regnamespace)"
        " select o.kind, o.name, a.privilege_type from object as o, aclexplode(o.acl) as a"
        " where a.grantee = 0"
        " union all select 'type', t.typname, 'USAGE' from pg_type as t"
        " where t.typnamespace = 'farebox'::regnamespace and has_type_privilege('public', t.oid, 'usage')"
    )
    assert grants == []


def test_what_is_added_later_is_not_for_public_either(db: Database) -> None:
    with db.connect() as conn:
        conn.execute("set role farebox_owner")
        conn.execute("create function farebox.later() returns int language sql return 1")
        conn.execute("create type farebox.later_type as enum ('x')")
        assert not scalar(conn, "select has_function_privilege('public', 'farebox.later()', 'execute')")
        assert not scalar(conn, "select has_type_privilege('public', 'farebox.later_type', 'usage')")
        conn.rollback()


@pytest.mark.parametrize("role", _GROUPS)
def test_each_role_may_execute_what_it_is_for_and_nothing_else(db: Database, role: str) -> None:
    rows = db.execute(
        "select distinct p.proname::text from pg_proc as p where p.pronamespace = 'farebox'::regnamespace"
        " and has_function_privilege(%s, p.oid, 'execute')",
        [role],
    )
    assert {name for (name,) in rows} == _MAY_EXECUTE[role]
    assert db.value("select has_schema_privilege(%s, 'farebox', 'usage')", [role])
    assert not db.value("select has_schema_privilege(%s, 'farebox', 'create')", [role])


@pytest.mark.parametrize("role", _GROUPS)
def test_each_role_touches_the_tables_it_is_for_and_no_others(db: Database, role: str) -> None:
    tables = db.execute(
        "select c.relname || ': ' || p from pg_class as c,"
        " unnest(array['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) as p"
        " where c.relnamespace = 'farebox'::regnamespace and c.relkind in ('r', 'p', 'v', 'm')"
        " and has_table_privilege(%s, c.oid, p)",
        [role],
    )
    assert {name for (name,) in tables} == _MAY_TOUCH[role]
    columns = db.execute(
        "select a.privilege_type || ' ' || c.relname || '.' || t.attname"
        " from pg_class as c join pg_attribute as t on t.attrelid = c.oid, aclexplode(t.attacl) as a"
        " where c.relnamespace = 'farebox'::regnamespace and a.grantee = %s::regrole",
        [role],
    )
    assert {name for (name,) in columns} == (_MAY_TOUCH_COLUMNS if role == "farebox_admin" else set())
    sequences = db.execute(
        "select c.relname from pg_class as c, unnest(array['SELECT', 'USAGE', 'UPDATE']) as p"
        " where c.relnamespace = 'farebox'::regnamespace and c.relkind = 'S'"
        " and has_sequence_privilege(%s, c.oid, p)",
        [role],
    )
    assert sequences == []


def test_a_role_cannot_pass_on_what_it_has(db: Database) -> None:
    rows = db.execute(
        "select a.* from (select relacl as acl from pg_class where relnamespace = 'farebox'::regnamespace"
        " union all select proacl from pg_proc where pronamespace = 'farebox'::regnamespace"
        " union all select nspacl from pg_namespace where nspname = 'farebox') as o, aclexplode(o.acl) as a"
        " where a.is_grantable and a.grantee <> 'farebox_owner'::regrole"
    )
    assert rows == []


def test_every_table_has_row_level_security(db: Database) -> None:
    unprotected = db.execute(
        "select relname from pg_class where relnamespace = 'farebox'::regnamespace"
        " and relkind in ('r', 'p') and not relrowsecurity"
    )
    assert unprotected == []
    # One policy for a company's own rows, which asks who is logged in; the rest is for administrators.
    policies = db.execute(
        "select tablename::text, roles::text[], cmd, qual from pg_policies where schemaname = 'farebox'"
    )
    own = {
        table
        for table, roles, cmd, qual in policies
        if roles == ["farebox_company"] and cmd == "SELECT" and "_login_company()" in qual
    }
    assert own == {name.split(":")[0] for name in _MAY_TOUCH["farebox_company"]}
    assert {tuple(roles) for _, roles, _, _ in policies} == {("farebox_company",), ("farebox_admin",)}


@pytest.mark.parametrize("table", ["companies", "routes", "payment_codes", "tickets", "transactions"])
def test_every_object_is_described(db: Database, table: str) -> None:
    """Each table with its columns and indexes."""
    name = sql.Literal(f"farebox.{table}")
    assert db.value(sql.SQL("select obj_description({}::regclass) is not null").format(name))
    undescribed = db.execute(
        sql.SQL(
            "select a.attname from pg_attribute as a where a.attrelid = {}::regclass and a.attnum > 0"
            " and not a.attisdropped and col_description(a.attrelid, a.attnum) is null"
        ).format(name)
    )
    assert undescribed == []
