"""Makes routers and shards: `farebox shards init` and `add`. Each step can be repeated."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any
from uuid import uuid4

import psycopg
from psycopg import sql

from farebox import migrate
from farebox.errors import ConfigurationError, MigrationError, PermissionDeniedError
from farebox.schema import load_layer
from farebox.shards._adopt import adopt
from farebox.shards._layout import (
    PARTITIONS,
    QUEUE_ID_BITS,
    Layout,
    Shard,
    ShardDsn,
    connect,
    hold_map,
    is_first_here,
    read_layout,
    router_options,
)

Connection = psycopg.Connection[Any]

STATEMENT_SECONDS = 30
"""How long a statement of the router may take on a shard, but for those that read whole tables."""


def init(
    router_dsn: str, shards: Sequence[ShardDsn], *, partitions: int = PARTITIONS, registry: bool = True
) -> Layout:
    """Makes the database of `router_dsn` the router of `shards`, over which the partitions are spread.

    Databases without Farebox are migrated; a shard may have companies if they are all its own. Run it again
    after a failure: it goes on; or to change how the router reaches its shards (`via`). Shards whose router
    was lost get a new one, which knows of a move that has begun. Raises ConfigurationError, MigrationError,
    PermissionDeniedError, TransientError while another one changes the installation.
    """
    if not 1 <= len(shards) <= partitions:
        raise ConfigurationError(f"1 to {partitions} shards can share {partitions} partitions")
    if len({shard.name for shard in shards}) < len(shards):
        raise ConfigurationError("each shard needs a name of its own")
    with connect(router_dsn) as router:
        require_superuser(router)
        migrate_if_blank(router_dsn, router)
        hold_map(router)
        adopted = None
        try:
            layout = read_layout(router)
        except ConfigurationError:
            refuse_data(router, "this database has companies of its own: it cannot become a router")
            adopted = adopt(shards)
            layout = _new_layout(shards, partitions, registry) if adopted is None else adopted.layout
            if adopted is None:
                _look_over(router, shards, layout)
        if {shard.place for shard in layout.shards} != {shard.place for shard in shards}:
            raise ConfigurationError(
                "this database is the router of other shards already",
                hint="farebox shards status shows them; farebox shards add adds one.",
            )
        # A PgBouncer beside the router gets the router's login, so it comes after the first `init`.
        via = {shard.place: shard.place_via for shard in shards}
        layout = replace(
            layout, shards=tuple(replace(shard, place_via=via[shard.place]) for shard in layout.shards)
        )
        password = _password(router) or secrets.token_urlsafe(24)
        # Noted first, so that a second run after a failure is about the same installation.
        with router.transaction():
            make_router(router, layout, password)
            if adopted is not None and adopted.move is not None:
                router.execute(
                    "insert into farebox.moves (partition, source, target, altered) values (%s, %s, %s, %s)",
                    adopted.move,
                )
        for given in shards:
            [shard] = [shard for shard in layout.shards if shard.place == given.place]
            make_shard(given.dsn, layout, shard, password)
    return layout


def add(router_dsn: str, new: ShardDsn) -> Layout:
    """Adds a shard without partitions; `move` brings it some. Raises as `init`."""
    with connect(router_dsn) as router:
        require_superuser(router)
        hold_map(router)
        layout = read_layout(router)
        known = [shard for shard in layout.shards if shard.name == new.name]
        if known and known[0].place != new.place:
            raise ConfigurationError(f"there is a shard {new.name!r} already, elsewhere")
        if not known:
            number = max(shard.number for shard in layout.shards) + 1
            shard = Shard(number, new.name, new.place, new.place_via, ())
            layout = Layout(
                layout.cluster_id, layout.partitions, layout.has_registry, (*layout.shards, shard)
            )
        password = router_password(router)
        make_shard(new.dsn, layout, layout.shard(new.name), password)
        make_router(router, layout, password)
    return layout


def _new_layout(shards: Sequence[ShardDsn], partitions: int, registry: bool) -> Layout:
    """The partitions in one stretch for each shard."""
    places = [
        Shard(
            number,
            shard.name,
            shard.place,
            shard.place_via,
            tuple(p for p in range(partitions) if p * len(shards) // partitions == number - 1),
        )
        for number, shard in enumerate(shards, 1)
    ]
    return Layout(uuid4(), partitions, registry, tuple(places))


def make_shard(dsn: str, layout: Layout, shard: Shard, password: str) -> None:
    """Makes the database of `dsn` that shard, or brings it up to date."""
    with connect(dsn) as conn:
        migrate_if_blank(dsn, conn)
        _refuse_other(conn, layout, shard.number)
        with conn.transaction():
            _make_mask(conn, layout)
            load_layer(conn, "shard.sql")
            _note(conn, layout, shard.number)
            if not conn.execute("select from farebox.own_partitions").rowcount:
                conn.execute(
                    "insert into farebox.own_partitions (partition) select unnest(%s::int[])",
                    [list(shard.partitions)],
                )
            _refuse_foreign_companies(conn)
            first = shard.number << QUEUE_ID_BITS
            conn.execute(
                "select setval('farebox.ticket_queue_ids', %s)"
                " from farebox.ticket_queue_ids where last_value < %s",
                [first, first],
            )
            _make_login(conn, layout.login, password)


def make_router(conn: Connection, layout: Layout, password: str) -> None:
    """Makes the database of `conn` the router of `layout`, or brings it up to date."""
    _refuse_other(conn, layout, None)
    with conn.transaction():
        conn.execute("create extension if not exists plproxy")
        _make_mask(conn, layout)
        _make_servers(conn, layout, password)
        load_layer(conn, "router.sql")
        _note(conn, layout, None)
        write_map(conn, layout)


def write_map(conn: Connection, layout: Layout) -> None:
    """Writes the map: tables, and the foreign servers that PL/Proxy reads. In the caller's transaction."""
    for shard in layout.shards:
        conn.execute(
            "insert into farebox.shards (shard, name, conninfo, conninfo_via) values (%s, %s, %s, %s)"
            " on conflict (shard) do update set name = excluded.name, conninfo = excluded.conninfo,"
            " conninfo_via = excluded.conninfo_via",
            [shard.number, shard.name, shard.place, shard.place_via],
        )
        sequence = f"shard_{shard.number}_down_until"
        # Only where it is missing: calls under way have looked at it, and may wait for a move to end.
        if conn.execute("select where to_regclass(%s) is null", [f"farebox.{sequence}"]).rowcount:
            conn.execute(
                sql.SQL(
                    "create unlogged sequence farebox.{0} as bigint minvalue 0 start 0;"
                    " alter sequence farebox.{0} owner to farebox_owner"
                ).format(sql.Identifier(sequence))
            )
        conn.execute(
            "insert into farebox.partitions (partition, shard, at) select unnest(%s::int[]), %s, %s"
            " on conflict (partition) do update set shard = excluded.shard, at = excluded.at",
            [list(shard.partitions), shard.number, shard.at],
        )
    looks = sql.SQL(" union all ").join(
        sql.SQL("select {}, {}, s.last_value from farebox.{} as s").format(
            sql.Literal(shard.number),
            sql.Literal(shard.at),
            sql.Identifier(f"shard_{shard.number}_down_until"),
        )
        for shard in layout.shards
        if shard.partitions
    )
    conn.execute(
        sql.SQL(
            "create or replace function farebox._down_untils()"
            " returns table (shard int, at int, until bigint)"
            # Asked in each call: a function of this language keeps its plan.
            " language plpgsql volatile as {}; alter function farebox._down_untils() owner to farebox_owner;"
            " revoke execute on function farebox._down_untils() from public"
        ).format(
            sql.Literal(
                # On a standby of the router they cannot be read.
                f"begin if not pg_is_in_recovery() then return query {looks.as_string(conn)}; end if; end"
            )
        )
    )
    for server, options in router_options(layout).items():
        known = conn.execute(
            "select coalesce((select array_agg(split_part(o, '=', 1)) from unnest(s.srvoptions) as o), '{}')"
            " from pg_foreign_server as s where s.srvname = %s",
            [server],
        ).fetchone()
        assert known is not None
        changes = sql.SQL(", ").join(
            sql.SQL("{} {} {}").format(
                sql.SQL("set" if key in known[0] else "add"), sql.Identifier(key), sql.Literal(value)
            )
            for key, value in sorted(options.items(), key=lambda item: int(item[0][1:]))
        )
        conn.execute(sql.SQL("alter server {} options ({})").format(sql.Identifier(server), changes))


def _make_servers(conn: Connection, layout: Layout, password: str) -> None:
    """The foreign servers with their partitions in order, and the login to them for farebox_owner alone."""
    for server, options in router_options(layout).items():
        name = sql.Identifier(server)
        if not conn.execute("select from pg_foreign_server where srvname = %s", [server]).rowcount:
            parts = sql.SQL(", ").join(
                sql.SQL("{} {}").format(sql.Identifier(key), sql.Literal(value))
                for key, value in sorted(options.items(), key=lambda item: int(item[0][1:]))
            )
            conn.execute(
                sql.SQL("create server {} foreign data wrapper plproxy options ({})").format(name, parts)
            )
        conn.execute(sql.SQL("grant usage on foreign server {} to farebox_owner").format(name))
        conn.execute(sql.SQL("drop user mapping if exists for farebox_owner server {}").format(name))
        conn.execute(
            sql.SQL("create user mapping for farebox_owner server {} options (user {}, password {})").format(
                name, sql.Literal(layout.login), sql.Literal(password)
            )
        )


def _password(conn: Connection) -> str | None:
    row = conn.execute(
        "select substring(o from 10) from pg_user_mappings as m, unnest(m.umoptions) as o"
        " where m.srvname = 'farebox' and o like 'password=%'"
    ).fetchone()
    return None if row is None else str(row[0])


def router_password(conn: Connection) -> str:
    """The password of the router's login, which only a superuser of the router reads."""
    password = _password(conn)
    if password is None:
        raise ConfigurationError(
            "the router's login to its shards cannot be read",
            hint="A superuser of the router can; or run farebox shards init.",
        )
    return password


def _make_mask(conn: Connection, layout: Layout) -> None:
    """The number of partitions, as the constant of a function: it is asked for each payment."""
    conn.execute(
        sql.SQL(
            "create or replace function farebox._partition_mask()"
            " returns int language sql immutable parallel safe"
            " as {}; alter function farebox._partition_mask() owner to farebox_owner;"
            " revoke execute on function farebox._partition_mask() from public;"
            " comment on function farebox._partition_mask() is 'Internal: the number of partitions less one'"
        ).format(sql.Literal(f"select {layout.partitions - 1}"))
    )


def _make_login(conn: Connection, login: str, password: str) -> None:
    """The router's login: a member of the groups for applications, workers and administrators."""
    name = sql.Identifier(login)
    if not conn.execute("select from pg_roles where rolname = %s", [login]).rowcount:
        try:
            with conn.transaction():
                conn.execute(sql.SQL("create role {} login").format(name))
        except (psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):
            pass  # another shard on the same server was faster
    secret = conn.pgconn.encrypt_password(password.encode(), login.encode(), b"scram-sha-256").decode()
    conn.execute(sql.SQL("alter role {} password {}").format(name, sql.Literal(secret)))
    conn.execute(
        sql.SQL("alter role {} set statement_timeout = {}").format(name, sql.Literal(f"{STATEMENT_SECONDS}s"))
    )
    conn.execute(sql.SQL("grant farebox_app, farebox_worker, farebox_admin to {}").format(name))
    functions = conn.execute(
        "select oid::regprocedure::text from pg_proc"
        " where pronamespace = 'farebox'::regnamespace and starts_with(proname, '_shard_')"
    ).fetchall()
    for (function,) in functions:
        conn.execute(sql.SQL("grant execute on function {} to {}").format(sql.SQL(function), name))


def _note(conn: Connection, layout: Layout, number: int | None) -> None:
    conn.execute(
        "insert into farebox.sharding (cluster_id, is_router, shard, partitions, has_registry)"
        " values (%s, %s, %s, %s, %s) on conflict (only_row) do nothing",
        [layout.cluster_id, number is None, number, layout.partitions, layout.has_registry],
    )


def migrate_if_blank(dsn: str, conn: Connection) -> None:
    if conn.execute("select where to_regnamespace('farebox') is null").rowcount:
        migrate.apply(dsn)


def require_superuser(conn: Connection) -> None:
    [may] = conn.execute("select rolsuper from pg_roles where rolname = current_user").fetchone() or [False]
    available = conn.execute("select from pg_available_extensions where name = 'plproxy'").rowcount
    if not available:
        raise ConfigurationError(
            "PL/Proxy is not installed on the router's server",
            hint="Debian: apt-get install postgresql-15-plproxy. Shards need nothing of it.",
        )
    if not may:
        raise PermissionDeniedError(
            f"the login {conn.info.user} is no superuser of the router's server",
            hint="PL/Proxy is no trusted language. On shards the database's owner with CREATEROLE is enough.",
        )


def refuse_data(conn: Connection, message: str) -> None:
    if conn.execute("select from farebox.companies limit 1").rowcount:
        raise ConfigurationError(message, hint="Make it the first shard of a new, empty router.")


def _look_over(router: Connection, shards: Sequence[ShardDsn], layout: Layout) -> None:
    """Raises what would come up later: once a router has noted its shards it takes no others."""
    is_first_here(router)
    with ExitStack() as stack:
        for given, shard in zip(shards, layout.shards, strict=True):
            conn = stack.enter_context(connect(given.dsn))
            if not is_first_here(conn):
                raise ConfigurationError(
                    f"{given.name} is the database of another shard, or of the router",
                    hint="Each needs a database of its own.",
                )
            if conn.execute("select where to_regclass('farebox.companies') is not null").rowcount:
                # As _partition_of, which is not there yet.
                foreign = conn.execute(
                    "select count(*) from farebox.companies as c"
                    " where ('x' || left(md5(c.id::text), 8))::bit(32)::int & %s <> all (%s::int[])",
                    [layout.partitions - 1, list(shard.partitions)],
                ).fetchone()
                _refuse_foreign(conn, foreign)


def _refuse_other(conn: Connection, layout: Layout, number: int | None) -> None:
    """What that database is already, it stays: a shard by its number, a router without."""
    if conn.execute("select where to_regclass('farebox.sharding') is null").rowcount:
        return
    row = conn.execute("select cluster_id, shard from farebox.sharding").fetchone()
    if row is not None and row != (layout.cluster_id, number):
        is_what = "a router" if row[1] is None else f"shard {row[1]}"
        of_what = "this" if row[0] == layout.cluster_id else "another"
        raise ConfigurationError(
            f"the database {conn.info.dbname} is {is_what} of {of_what} sharded installation",
            hint="Name another database.",
        )


def _refuse_foreign_companies(conn: Connection) -> None:
    foreign = conn.execute(
        "select count(*) from farebox.companies as c where farebox._partition_of(c.id::text) not in"
        " (select partition from farebox.own_partitions union select partition from farebox.stray_partitions)"
    ).fetchone()
    _refuse_foreign(conn, foreign)


def _refuse_foreign(conn: Connection, foreign: tuple[Any, ...] | None) -> None:
    if foreign is not None and foreign[0]:
        raise MigrationError(
            f"{foreign[0]} companies of {conn.info.dbname} do not belong on this shard",
            hint="Begin with this database as the only shard, then add others and move partitions.",
        )
