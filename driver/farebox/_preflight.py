"""Looks before a migration leaps: is this server fit for Farebox, and may this login do what is needed?

Everything missing is told at once, with the statement a DBA has to run: finding out one error at a time, each
after a round of tickets, is how installations take a week.
"""

from typing import Any, Final

import psycopg
from psycopg import sql

from farebox._yoyo import SCHEMA
from farebox.errors import MigrationError

OLDEST_SERVER: Final = 150000
OWNER: Final = "farebox_owner"
ROLES: Final = (OWNER, "farebox_app", "farebox_worker", "farebox_company", "farebox_admin")

_STATE: Final = """
select r.rolsuper, r.rolcreaterole,
       has_database_privilege(current_database(), 'CREATE') as may_create,
       to_regnamespace('farebox') is not null as has_schema,
       n.oid is not null as has_bookkeeping,
       n.oid is null or has_schema_privilege(n.oid, 'USAGE') and not exists (
         select from pg_class c
         where c.relnamespace = n.oid and c.relkind = 'r'
           and not (has_table_privilege(c.oid, 'SELECT') and has_table_privilege(c.oid, 'INSERT')
                    and has_table_privilege(c.oid, 'DELETE'))) as may_note,
       array(select wanted from unnest(%(roles)s::text[]) as wanted
             where not exists (select from pg_roles where rolname = wanted)) as missing_roles,
       exists (select from pg_roles where rolname = %(owner)s) as has_owner
from pg_roles r left join pg_namespace n on n.nspname = %(bookkeeping)s
where r.rolname = current_user
"""


def check_server(conn: psycopg.Connection[Any]) -> None:
    """Raises MigrationError when the server is too old, a standby, or the database not UTF-8."""
    if conn.info.server_version < OLDEST_SERVER:
        raise MigrationError(
            f"PostgreSQL {conn.info.server_version // 10000} is too old: "
            f"Farebox needs {OLDEST_SERVER // 10000} or later"
        )
    encoding, standby = _one_row(conn, "select current_setting('server_encoding'), pg_is_in_recovery()")
    if encoding != "UTF8":
        raise MigrationError(
            f"the database {conn.info.dbname} is encoded in {encoding}; Farebox needs UTF8",
            hint=_text(
                conn,
                "create database {} encoding 'UTF8' template template0;",
                sql.Identifier("farebox" if conn.info.dbname != "farebox" else "farebox_utf8"),
            ),
        )
    if standby:
        raise MigrationError(
            f"{conn.info.host} is a standby and cannot be written to",
            hint="Migrate the primary; standbys follow.",
        )


def require_rights(conn: psycopg.Connection[Any], *, to_apply: bool) -> None:
    """Raises MigrationError (42501) that names every right the login lacks and the GRANT that gives it.

    ``to_apply`` asks for what a first migration needs; a rollback needs less.
    """
    may_set_owner = "SET" if conn.info.server_version >= 160000 else "MEMBER"
    superuser, createrole, may_create, has_schema, has_bookkeeping, may_note, missing_roles, has_owner = (
        _one_row(conn, _STATE, {"roles": list(ROLES), "owner": OWNER, "bookkeeping": SCHEMA})
    )
    if superuser:
        return
    user = sql.Identifier(_one_row(conn, "select current_user")[0])
    lacks: list[str] = []
    grants: list[str] = []
    if to_apply and not may_create and not (has_schema and has_bookkeeping):
        lacks.append(f"CREATE on the database {conn.info.dbname}")
        grants.append(
            _text(conn, "grant create on database {} to {};", sql.Identifier(conn.info.dbname), user)
        )
    if to_apply and missing_roles and not createrole:
        lacks.append(f"CREATEROLE (to create {', '.join(missing_roles)})")
        grants += [_text(conn, "create role {} nologin;", sql.Identifier(role)) for role in missing_roles]
    if has_owner and not _one_row(conn, "select pg_has_role(%s, %s)", (OWNER, may_set_owner))[0]:
        # Before 16 CREATEROLE may grant itself any role; since then only those it has the admin option of.
        admin = _one_row(conn, "select pg_has_role(%s, 'MEMBER WITH ADMIN OPTION')", (OWNER,))[0]
        if not createrole or (conn.info.server_version >= 160000 and not admin):
            lacks.append(f"membership in {OWNER}")
            grants.append(_text(conn, "grant {} to {};", sql.Identifier(OWNER), user))
    elif not has_owner and missing_roles and not createrole:
        grants.append(_text(conn, "grant {} to {};", sql.Identifier(OWNER), user))
    if not may_note:
        lacks.append(f"the tables of the schema {SCHEMA}")
        grants.append(_text(conn, "grant usage, create on schema {} to {};", sql.Identifier(SCHEMA), user))
        grants.append(
            _text(
                conn,
                "grant select, insert, delete on all tables in schema {} to {};",
                sql.Identifier(SCHEMA),
                user,
            )
        )
    if lacks:
        raise MigrationError(
            f"the login {_one_row(conn, 'select current_user')[0]} lacks: {'; '.join(lacks)}",
            sqlstate="42501",
            hint="A superuser or the owner of the database gives it with:\n  " + "\n  ".join(grants),
        )


def refuse_strange_schema(conn: psycopg.Connection[Any]) -> None:
    """Raises MigrationError when there is a schema ``farebox`` in a database with no migration noted."""
    if _one_row(conn, "select to_regnamespace('farebox') is not null")[0]:
        raise MigrationError(
            "the schema farebox exists, but no migration is noted in this database",
            hint="It was loaded from db/, or applied by a yoyo whose URL lacks ?schema=farebox_migrations, "
            "or is not Farebox's at all. If it is what the migrations make, note them with `yoyo mark`; else "
            "drop or rename it.",
        )


def _one_row(conn: psycopg.Connection[Any], query: str, params: Any = None) -> Any:
    row = conn.execute(query.encode(), params).fetchone()
    assert row is not None, query
    return row


def _text(conn: psycopg.Connection[Any], template: str, *parts: sql.Identifier) -> str:
    return template.format(*(part.as_string(conn) for part in parts))
