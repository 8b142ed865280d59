"""Looks before a migration leaps: is this server fit for Farebox, and may this login do what is needed?

Everything missing is told at once, with the statement a DBA has to run: finding out one error at a time, each
after a round of tickets, is how installations take a week.
"""

from typing import Any, Final

import psycopg

from farebox._migration_files import SCHEMA
from farebox.errors import MigrationError, PermissionDeniedError

OLDEST_SERVER: Final = 150000
OWNER: Final = "farebox_owner"
ROLES: Final = (OWNER, "farebox_app", "farebox_worker", "farebox_company", "farebox_admin")

_STATE: Final = """
select r.rolsuper, r.rolcreaterole,
       has_database_privilege(current_database(), 'CREATE'),
       to_regnamespace('farebox') is not null and n.oid is not null,
       n.oid is null or has_schema_privilege(n.oid, 'USAGE') and not exists (
         select from pg_class as c
         where c.relnamespace = n.oid and c.relkind = 'r'
           and not (has_table_privilege(c.oid, 'SELECT') and has_table_privilege(c.oid, 'INSERT')
                    and has_table_privilege(c.oid, 'DELETE'))),
       array(select wanted from unnest(%(roles)s::text[]) with ordinality as list (wanted, place)
             where not exists (select from pg_roles where rolname = wanted) order by place),
       quote_ident(current_user), quote_ident(current_database())
from pg_roles as r left join pg_namespace as n on n.nspname = %(bookkeeping)s
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
        name = "farebox" if conn.info.dbname != "farebox" else "farebox_utf8"
        raise MigrationError(
            f"the database {conn.info.dbname} is encoded in {encoding}; Farebox needs UTF8",
            hint=f"create database {name} encoding 'UTF8' template template0;",
        )
    if standby:
        raise MigrationError(
            f"{conn.info.host} is a standby and cannot be written to",
            hint="Migrate the primary; standbys follow.",
        )


def require_rights(conn: psycopg.Connection[Any], *, to_apply: bool) -> None:
    """Raises PermissionDeniedError that names every right the login lacks, and the GRANT that gives it.

    ``to_apply`` asks for what a first migration needs; a rollback needs less.
    """
    since_16 = conn.info.server_version >= 160000
    superuser, createrole, may_create, has_all_schemas, may_note, missing_roles, user, database = _one_row(
        conn, _STATE, {"roles": list(ROLES), "bookkeeping": SCHEMA}
    )
    if superuser:
        return
    lacks: list[str] = []
    grants: list[str] = []
    if to_apply and not may_create and not has_all_schemas:
        lacks.append(f"CREATE on the database {database}")
        grants.append(f"grant create on database {database} to {user};")
    if to_apply and missing_roles and not createrole:
        lacks.append(f"CREATEROLE, to create {', '.join(missing_roles)}")
        grants += [f"create role {role} nologin;" for role in missing_roles]
    if OWNER in missing_roles:
        # Whoever may create roles may also make itself a member; for others somebody else has to.
        needs_membership = to_apply and not createrole
    else:
        is_member, is_administrator = _one_row(
            conn,
            "select pg_has_role(%(owner)s, %(member)s), pg_has_role(%(owner)s, 'MEMBER WITH ADMIN OPTION')",
            {"owner": OWNER, "member": "SET" if since_16 else "MEMBER"},
        )
        # Before 16 CREATEROLE may grant itself any role; since then only those it has the admin option of.
        needs_membership = not is_member and not (createrole and (is_administrator or not since_16))
    if needs_membership:
        lacks.append(f"membership in {OWNER}")
        grants.append(f"grant {OWNER} to {user};")
    if not may_note:
        lacks.append(f"the tables of the schema {SCHEMA}")
        grants.append(f"grant usage, create on schema {SCHEMA} to {user};")
        grants.append(f"grant select, insert, delete on all tables in schema {SCHEMA} to {user};")
    if lacks:
        raise PermissionDeniedError(
            f"the login {user} lacks: {'; '.join(lacks)}",
            sqlstate="42501",
            hint="A superuser or the owner of the database gives it with:\n  " + "\n  ".join(grants),
        )


def refuse_sharded(conn: psycopg.Connection[Any]) -> None:
    """Raises MigrationError for a router and for a shard: their migrations belong together."""
    # Not by its name, for which one needs rights in the schema: what is missing there is told with its
    # remedy.
    found = _one_row(
        conn,
        "select exists (select from pg_catalog.pg_class where relname = 'sharding'"
        " and relnamespace = (select oid from pg_catalog.pg_namespace where nspname = 'farebox'))",
    )
    if found[0]:
        raise MigrationError(
            f"the database {conn.info.dbname} is part of a sharded installation",
            hint="Name its router to: farebox shards migrate",
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
