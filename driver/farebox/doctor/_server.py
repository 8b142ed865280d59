# ruff: noqa: E501, ISC004 - sentences and SQL stay in one piece
"""Checks of the server: version, settings, connections, clock, extensions, what stands in between."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

from farebox._preflight import OLDEST_SERVER
from farebox.doctor._finding import Context, Found, Level, Part, check

_NEWEST_TESTED: Final = 18
_RELOAD: Final = "select pg_reload_conf();"


@check(
    "version",
    why="Farebox is tested with PostgreSQL 15 to 18; older ones lack what it uses.",
    good="PostgreSQL's version is one that Farebox is tested with",
)
def _version(context: Context) -> Iterator[Found]:
    number = context.conn.info.server_version
    if number < OLDEST_SERVER:
        yield (
            Level.PROBLEM,
            f"PostgreSQL {number // 10000} is too old",
            "upgrade the server with pg_upgrade, or dump and restore (migrations/README.md)",
        )
    elif number // 10000 > _NEWEST_TESTED:
        yield (
            Level.WARNING,
            f"PostgreSQL {number // 10000} is newer than any that this Farebox was tested with",
            "pip install --upgrade farebox",
        )


@check(
    "durability",
    why="With these off, a crash loses tickets that were already answered, or the whole database.",
    good="fsync, full_page_writes and synchronous_commit are on, for everybody",
)
def _durability(context: Context) -> Iterator[Found]:
    for name in ("fsync", "full_page_writes"):
        if context.setting(name) != "on":
            yield Level.PROBLEM, f"{name} is off", f"alter system set {name} = on; {_RELOAD}"
    # Of this session may be somebody's own; what the server gives to others is in reset_val.
    if (
        context.row("select reset_val from pg_settings where name = 'synchronous_commit'")["reset_val"]
        == "off"
    ):
        yield (
            Level.PROBLEM,
            "synchronous_commit is off",
            f"alter system set synchronous_commit = on; {_RELOAD}",
        )
    rows = context.rows(
        """
        select coalesce(quote_ident(r.rolname), 'all') as role, quote_ident(d.datname) as database
        from pg_db_role_setting as s
        left join pg_roles as r on r.oid = s.setrole
        left join pg_database as d on d.oid = s.setdatabase
        cross join unnest(s.setconfig) as setting
        where setting = 'synchronous_commit=off' and (s.setdatabase = 0 or d.datname = current_database())
        """
    )
    for row in rows:
        inside = f" in database {row['database']}" if row["database"] else ""
        yield (
            Level.PROBLEM,
            f"synchronous_commit is off for role {row['role']}{inside}",
            f"alter role {row['role']}{inside} reset synchronous_commit;",
        )


@check(
    "memory",
    why="With PostgreSQL's default of 128 MB the indexes of some million tickets do not stay in memory.",
    good="shared_buffers is above the default",
)
def _memory(context: Context) -> Iterator[Found]:
    if context.part is Part.ROUTER:  # which stores nothing
        return
    size = context.row("select pg_size_bytes(current_setting('shared_buffers')) as bytes")["bytes"]
    if size <= 128 << 20:
        yield (
            Level.WARNING,
            f"shared_buffers is {context.setting('shared_buffers')}",
            "alter system set shared_buffers = '1GB'; -- a quarter of the memory; then restart the server",
        )


@check(
    "wal",
    why="Under load a small max_wal_size forces checkpoints all the time; each makes every page be logged whole again.",
    good="max_wal_size leaves room between checkpoints",
)
def _wal(context: Context) -> Iterator[Found]:
    if context.part is Part.ROUTER:  # which writes nearly nothing
        return
    size = context.row("select pg_size_bytes(current_setting('max_wal_size')) as bytes")["bytes"]
    if size < 2 << 30:
        yield (
            Level.WARNING,
            f"max_wal_size is {context.setting('max_wal_size')}",
            f"alter system set max_wal_size = '4GB'; {_RELOAD}",
        )
    if context.setting("wal_compression") in ("on", "pglz"):
        query = "select 'lz4' = any (enumvals) as has_lz4 from pg_settings where name = 'wal_compression'"
        better = "lz4" if context.row(query)["has_lz4"] else "off"
        yield (
            Level.WARNING,
            "wal_compression is pglz, which takes more time than it saves: after a checkpoint half the rate",
            f"alter system set wal_compression = '{better}'; {_RELOAD}",
        )


@check(
    "autovacuum",
    why="Without it statistics go stale, dead rows pile up, and in the end the server stops to save its transaction ids.",
    good="autovacuum is on, for the server and for every table",
)
def _autovacuum(context: Context) -> Iterator[Found]:
    for name in ("autovacuum", "track_counts"):
        if context.setting(name) != "on":
            yield Level.PROBLEM, f"{name} is off", f"alter system set {name} = on; {_RELOAD}"
    rows = context.rows(
        """
        select c.oid::regclass::text as name from pg_class as c
        where c.relnamespace = to_regnamespace('farebox') and 'autovacuum_enabled=false' = any (c.reloptions)
           or c.relnamespace = to_regnamespace('farebox') and 'autovacuum_enabled=off' = any (c.reloptions)
        order by 1
        """
    )
    for row in rows:
        yield (
            Level.PROBLEM,
            f"autovacuum is off for {row['name']}",
            f"alter table {row['name']} reset (autovacuum_enabled);",
        )


@check(
    "connections",
    why="When they are used up, callers are refused (53300); the driver needs a handful for ten thousand callers.",
    good="there are connections to spare",
)
def _connections(context: Context) -> Iterator[Found]:
    row = context.row(
        """
        select count(*) as used,
          current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
            - coalesce(current_setting('reserved_connections', true)::int, 0) as most
        from pg_stat_activity where backend_type = 'client backend'
        """
    )
    share = row["used"] / max(row["most"], 1)
    limits = context.thresholds
    if share >= limits.connections_warning:
        yield (
            Level.PROBLEM if share >= limits.connections_problem else Level.WARNING,
            f"{row['used']} of {row['most']} connections are in use",
            "select usename, application_name, state, count(*) from pg_stat_activity group by 1, 2, 3 order by 4 desc; "
            "-- then fewer in the largest pool (the driver's option `connections`), or a PgBouncer in between",
        )


@check(
    "clock",
    why="All clocks of Farebox are the database's: codes expire and tickets are dated by it.",
    good="the server's clock agrees with this machine's",
)
def _clock(context: Context) -> Iterator[Found]:
    limits = context.thresholds
    before = time.monotonic()
    row = context.row("select clock_timestamp() as now")
    half_way = timedelta(seconds=(time.monotonic() - before) / 2)
    ahead: timedelta = row["now"] + half_way - datetime.now(UTC)
    if abs(ahead) >= limits.clock_warning:
        yield (
            Level.PROBLEM if abs(ahead) >= limits.clock_problem else Level.WARNING,
            f"the server's clock is {abs(ahead).total_seconds():.0f} s {'ahead of' if ahead > timedelta() else 'behind'}"
            " this machine's",
            "timedatectl set-ntp true   # on the machine whose clock is wrong",
        )
    if not context.has_function("farebox._now()"):
        return
    own = context.row("select farebox._now() - clock_timestamp() as ahead")["ahead"]
    if abs(own) >= limits.clock_warning:
        yield (
            Level.PROBLEM,
            f"farebox._now() is {abs(own).total_seconds():.0f} s off the server's clock: its body was replaced, as tests do",
            context.expected.functions["_now"].restore_command,
        )


@check(
    "transaction ids",
    why="At two thousand million PostgreSQL stops writing; autovacuum normally keeps far away from that.",
    good="transaction ids and multixacts are far from their limits",
)
def _wraparound(context: Context) -> Iterator[Found]:
    row = context.row(
        """
        select age(datfrozenxid) as xids, mxid_age(datminmxid) as multixacts, quote_ident(datname) as name
        from pg_database where datname = current_database()
        """
    )
    for what in ("xids", "multixacts"):
        if row[what] >= context.thresholds.id_age_warning:
            yield (
                Level.PROBLEM if row[what] >= context.thresholds.id_age_problem else Level.WARNING,
                f"the oldest of the {what} in {row['name']} is {row[what]:,} back",
                "vacuum (freeze, verbose); -- first end what holds it back: old transactions, prepared ones, slots",
            )


@check(
    "replication slots",
    why="A slot that nobody reads keeps all write-ahead log since then: the disk fills, and the server stops.",
    good="no replication slot holds back much write-ahead log",
)
def _slots(context: Context) -> Iterator[Found]:
    rows = context.rows(
        """
        select slot_name, quote_literal(slot_name) as quoted, active, wal_status,
          case when not pg_is_in_recovery() then pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint end as retained
        from pg_replication_slots order by slot_name
        """
    )
    for row in rows:
        if not row["active"] or (row["retained"] or 0) > context.thresholds.retained_wal:
            much = (row["retained"] or 0) > context.thresholds.retained_wal
            yield (
                Level.PROBLEM if much else Level.WARNING,
                f"replication slot {row['slot_name']} is {'active' if row['active'] else 'not in use'} and holds back"
                f" {(row['retained'] or 0) >> 20:,} MB",
                "farebox shards status -- on the router: says how to finish the move, or to take it back"
                if row["slot_name"].startswith("farebox_move_")
                else "select * from pg_stat_replication; -- whose reader is behind: mend that one"
                if row["active"]
                else f"select pg_drop_replication_slot({row['quoted']}); -- if its reader is gone for good",
            )


@check(
    "pooler",
    why="A transaction pooler gives each transaction another session: LISTEN does not work through it, and prepared "
    "statements only since PgBouncer 1.21. The driver notices and does without; workers then go by their interval.",
    good="the connection goes straight to the server",
)
def _pooler(context: Context) -> Iterator[Found]:
    # A pooler hands out process ids of its own making for cancel requests.
    if context.row("select pg_backend_pid() as pid")["pid"] == context.conn.info.backend_pid:
        return
    row = context.row("select count(*) as others from pg_prepared_statements")
    left = f"; {row['others']} prepared statements of others are in this session" if row["others"] else ""
    yield (
        Level.WARNING if row["others"] else Level.OK,
        f"a pooler stands between here and the server{left}",
        "max_prepared_statements = 200   # in pgbouncer.ini, 1.21 or later" if row["others"] else None,
    )


@check(
    "extensions",
    why="pg_stat_statements tells which statements are slow, over time and not only now.",
    good="pg_stat_statements is installed",
)
def _extensions(context: Context) -> Iterator[Found]:
    row = context.row(
        """
        select
          exists (select from pg_extension where extname = 'pg_stat_statements') as installed,
          exists (select from pg_available_extensions where name = 'pg_stat_statements') as available,
          coalesce(current_setting('shared_preload_libraries', true), '') like '%pg_stat_statements%' as loaded,
          -- Each for itself: several in one pair of quotes would be one library, which no server finds.
          (select string_agg(quote_literal(trim(both ' "' from library)), ', ' order by place)
           from unnest(string_to_array(current_setting('shared_preload_libraries', true), ',')) with ordinality as list (library, place)
           where library <> '') as libraries
        """
    )
    if row["installed"]:
        return
    steps = "create extension pg_stat_statements;"
    if not row["loaded"]:
        # What is loaded already stays: setting it takes the place of all of it.
        libraries = ", ".join(filter(None, (row["libraries"], "'pg_stat_statements'")))
        steps = (
            f"alter system set shared_preload_libraries = {libraries}; -- restart the server, then: {steps}"
        )
    if not row["available"]:
        steps = "apt-get install postgresql-contrib   # or your system's package of it"
    yield Level.WARNING, "pg_stat_statements is not installed here", steps
