"""What a check says, and what a check gets to look with."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any, Final

import psycopg
from psycopg.rows import dict_row

from farebox.doctor._expected import Expected, read_expected
from farebox.errors import FareboxError
from farebox.migrate import MigrationStatus, status

Rows = list[dict[str, Any]]


class Level(StrEnum):
    """How bad it is; in order."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


_ORDER: Final = tuple(Level)


class Part(StrEnum):
    """What a database is: all there is, or the router or a shard of a sharded installation."""

    ALONE = "alone"
    ROUTER = "router"
    SHARD = "shard"


_LAYERS: Final = {Part.ALONE: None, Part.ROUTER: "router.sql", Part.SHARD: "shard.sql"}


def worst(levels: Sequence[Level]) -> Level:
    """The worst of them; OK for none."""
    return max(levels, key=_ORDER.index, default=Level.OK)


@dataclass(frozen=True, slots=True)
class Finding:
    """One answer of one check.

    `why` it matters; `fix` is the exact command or SQL that mends it (None: nothing to do). `repairs` are SQL
    statements that `--fix` may run unasked: they lose nothing, and running them once more does no harm.
    """

    check: str
    level: Level
    message: str
    why: str
    fix: str | None = None
    repairs: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Thresholds:
    """From when on something is a warning or a problem."""

    queue_warning: int = 1_000
    queue_problem: int = 5_000
    batch_warning: timedelta = timedelta(seconds=2)
    batch_problem: timedelta = timedelta(seconds=5)
    connections_warning: float = 0.8
    connections_problem: float = 0.95
    transaction_warning: timedelta = timedelta(minutes=5)
    transaction_problem: timedelta = timedelta(hours=1)
    idle_in_transaction: timedelta = timedelta(minutes=1)
    blocked_problem: timedelta = timedelta(seconds=30)
    snapshot_age_warning: int = 1_000_000
    clock_warning: timedelta = timedelta(seconds=5)
    clock_problem: timedelta = timedelta(minutes=1)
    dead_rows_share: float = 0.2
    dead_rows_least: int = 10_000
    changed_rows_share: float = 0.2
    changed_rows_least: int = 10_000
    unused_index_rows: int = 100_000
    unapplied_problem_age: timedelta = timedelta(days=7)
    retained_wal: int = 10 << 30
    id_age_warning: int = 1_000_000_000
    id_age_problem: int = 1_500_000_000
    bloat_share: float = 0.5
    bloat_bytes: int = 64 << 20
    verify_timeout: timedelta = timedelta(seconds=60)


class Context:
    """One database under examination: a connection in autocommit mode, and what should be there."""

    def __init__(self, dsn: str, conn: psycopg.Connection[Any], thresholds: Thresholds) -> None:
        self.dsn = dsn
        self.conn = conn
        self.thresholds = thresholds
        self._gave_up: psycopg.Error | None = None
        # At once, as it takes a connection of its own: a pooler of one has none while a check is under way.
        self._migrations: list[MigrationStatus] | FareboxError
        try:
            self._migrations = status(dsn)
        except FareboxError as error:
            self._migrations = error

    def rows(self, query: str, params: Any = None) -> Rows:
        """The rows of one statement, each a dictionary."""
        return (
            self.conn.cursor(row_factory=dict_row).execute(query.encode(), params, prepare=False).fetchall()
        )

    def row(self, query: str, params: Any = None) -> dict[str, Any]:
        """The only row of one statement."""
        [row] = self.rows(query, params)
        return row

    def setting(self, name: str) -> str:
        """A setting of the server as this session sees it."""
        return str(self.row("select current_setting(%s) as value", [name])["value"])

    def has_function(self, signature: str) -> bool:
        """Whether the database has such a function, such as `farebox.queue_metrics()`."""
        return self.row("select to_regprocedure(%s) is not null as yes", [signature])["yes"] is True

    @contextmanager
    def patience(self, limit: timedelta, *, setting: str = "statement_timeout") -> Generator[None]:
        """One transaction, in which a statement that takes longer (or waits longer for a lock) raises."""
        with self.conn.transaction():
            milliseconds = round(limit.total_seconds() * 1000)
            self.conn.execute("select set_config(%s, %s, true)", [setting, str(milliseconds)])
            yield

    @functools.cached_property
    def user(self) -> str:
        """The login, quoted for SQL."""
        return str(self.row("select quote_ident(current_user) as name")["name"])

    @functools.cached_property
    def part(self) -> Part:
        """What this database is; by the names of its tables, which anybody may see."""
        row = self.row(
            "select coalesce(bool_or(c.relname = 'partitions'), false) as is_router,"
            " coalesce(bool_or(c.relname = 'own_partitions'), false) as is_shard"
            " from pg_class as c join pg_namespace as n on n.oid = c.relnamespace"
            " where n.nspname = 'farebox' and c.relkind = 'r'"
        )
        return Part.ROUTER if row["is_router"] else Part.SHARD if row["is_shard"] else Part.ALONE

    @functools.cached_property
    def expected(self) -> Expected:
        """What the SQL of this version of Farebox makes of such a database."""
        return read_expected(layer=_LAYERS[self.part])

    @property
    def migrations(self) -> list[MigrationStatus]:
        """The migrations of this package and of the database. Raises what kept us from reading them."""
        if isinstance(self._migrations, FareboxError):
            raise self._migrations
        return self._migrations

    @functools.cached_property
    def is_current(self) -> bool:
        """Whether the database should look as `expected` says: nothing pending, nothing newer than we are."""
        if all(each.applied_at is None for each in self.migrations):
            # Loaded from db/ (a laboratory), if there is anything at all.
            return self.row("select to_regclass('farebox.tickets') is not null as yes")["yes"] is True
        return all(each.known and each.applied_at for each in self.migrations)

    @functools.cached_property
    def violations(self) -> Rows:
        """What `farebox.verify()` finds; reads all tables. Raises what stopped it, and again."""
        if self._gave_up is not None:
            raise self._gave_up
        try:
            with self.patience(self.thresholds.verify_timeout):
                return self.rows("select * from farebox.verify()")
        except psycopg.Error as error:
            self._gave_up = error
            raise


Look = Callable[[Context], Iterator[Finding]]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to look at. `good` is what to say when `look` finds nothing."""

    name: str
    why: str
    good: str
    look: Look
    needs_schema: bool
    reads_everything: bool
    only_on: Part | None
    module: str


CHECKS: Final[list[Check]] = []

Found = tuple[Level, str, str | None] | tuple[Level, str, str | None, tuple[str, ...]]
"""What the body of a check yields: level, message, fix, and perhaps safe repairs."""


def check(
    name: str,
    *,
    why: str,
    good: str,
    needs_schema: bool = False,
    reads_everything: bool = False,
    only_on: Part | None = None,
) -> Callable[[Callable[[Context], Iterator[Found]]], Callable[[Context], Iterator[Found]]]:
    """Enter a function into the list of checks; `needs_schema`: only where all migrations are applied."""

    def enter(body: Callable[[Context], Iterator[Found]]) -> Callable[[Context], Iterator[Found]]:
        def look(context: Context) -> Iterator[Finding]:
            for level, message, fix, *repairs in body(context):
                yield Finding(name, level, message, why, fix, repairs[0] if repairs else ())

        CHECKS.append(Check(name, why, good, look, needs_schema, reads_everything, only_on, body.__module__))
        return body

    return enter
