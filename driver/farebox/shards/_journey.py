"""The steps of a move, each of which may be repeated: the way there, the fence, the switch, the cleaning."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from farebox.errors import ConfigurationError, MigrationError, TransientError
from farebox.shards import _handover as handover
from farebox.shards._layout import Layout, Shard, connect, hold_map, operator_dsn, read_layout
from farebox.shards._left_behind import remove_left_behind
from farebox.shards._readers import tell_readers
from farebox.shards._replication import TABLES, Replication
from farebox.shards._setup import write_map

Connection = psycopg.Connection[Any]

OLD_CALLS_SECONDS: Final = 60.0
"""How long to wait for calls of the router that began with the old map, before rows are deleted."""
_MARGIN: Final = timedelta(minutes=1)
"""Longer than any batch takes: what is older has been committed, and was compared before the fence."""
_ATTEMPTS: Final = 5
_WALL_SECONDS: Final = 600.0
"""How long a run goes on behind a wall that an earlier one has left: giving up would open nothing."""


@dataclass(frozen=True, slots=True)
class MoveProgress:
    """How far a move is: the step, and what there is to say.

    Of a step that counts, how many rows so far; of the copy, how many bytes of the source's log are to come.
    """

    step: str
    text: str
    rows: int | None = None
    behind: int | None = None


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A move that has begun and not ended."""

    partition: int
    source: str
    target: str
    is_taken_back: bool

    def __str__(self) -> str:
        back = f"farebox shards move {self.partition} --abort"
        if self.is_taken_back:
            return f"partition {self.partition} is on its way back to {self.source}: {back} goes on"
        return (
            f"partition {self.partition} is on its way from {self.source} to {self.target}:"
            f" farebox shards move {self.partition} {self.target} goes on, {back} takes it back"
        )


def unfinished(router: Connection, layout: Layout) -> Unfinished | None:
    """The move that has begun on this router and not ended, if any."""
    if router.execute("select where to_regclass('farebox.moves') is null").rowcount:
        return None
    row = router.execute("select partition, source, target, is_taken_back from farebox.moves").fetchone()
    if row is None:
        return None
    names = {shard.number: shard.name for shard in layout.shards}
    return Unfinished(row[0], names[row[1]], names[row[2]], row[3])


class Journey:
    """A partition, the shard it comes from (`away`, connected as `source`), and the one it goes to."""

    def __init__(
        self, stack: ExitStack, router: Connection, router_dsn: str, layout: Layout, partition: int,
        away: Shard, to: Shard,
    ) -> None:  # fmt: skip
        self.router = router
        self.layout = layout
        self.partition = partition
        self.away = away
        self.to = to
        self._router_dsn = router_dsn
        self._source_dsn = operator_dsn(router_dsn, away.place)
        self._stack = stack
        self.rows: handover.SmallRows | None = None
        self.source = self._open(self._source_dsn)
        self.target = self._open(operator_dsn(router_dsn, to.place))
        name = f"farebox_move_{layout.cluster_id.hex[:8]}_{away.number}_{partition}"
        self.replication = Replication(self.source, self.target, partition, name)

    # -- finding out ------------------------------------------------------------------------------------

    @classmethod
    @contextmanager
    def begin(cls, router_dsn: str, partition: int, target: str) -> Generator[Journey | None]:
        """To that shard; None when the partition is there and nothing is left to do."""
        with ExitStack() as stack:
            router, layout = _router(stack, router_dsn)
            to = layout.shard(target)
            if not 0 <= partition < layout.partitions:
                raise ConfigurationError(f"there are partitions 0 to {layout.partitions - 1}")
            known = unfinished(router, layout)
            if known is None:
                [away] = [shard for shard in layout.shards if partition in shard.partitions]
                if away.number == to.number:
                    yield None
                    return
            elif known.is_taken_back or (known.partition, known.target) != (partition, target):
                raise ConfigurationError(str(known), hint="One partition moves at a time.")
            else:
                away = layout.shard(known.source)
            yield cls(stack, router, router_dsn, layout, partition, away, to)

    @classmethod
    @contextmanager
    def resume(cls, router_dsn: str, partition: int) -> Generator[Journey]:
        """The one that has begun. Raises ConfigurationError when it has not."""
        with ExitStack() as stack:
            router, layout = _router(stack, router_dsn)
            known = unfinished(router, layout)
            if known is None or known.partition != partition:
                raise ConfigurationError(
                    f"partition {partition} is not on its way", hint="farebox shards status"
                )
            shards = layout.shard(known.source), layout.shard(known.target)
            yield cls(stack, router, router_dsn, layout, known.partition, *shards)

    def _open(self, dsn: str) -> Connection:
        conn = self._stack.enter_context(connect(dsn))
        # What rows look like as text must not depend on the server's settings. A long queue that is handed
        # over is sorted and kept in memory: everybody waits for it.
        conn.execute(
            "set work_mem = '256MB'; set temp_buffers = '64MB';"
            " set statement_timeout = 0; set idle_in_transaction_session_timeout = 0;"
            " set timezone = 'UTC'; set datestyle = 'ISO'; set application_name = 'farebox_move'"
        )
        return conn

    def is_noted(self) -> bool:
        return unfinished(self.router, self.layout) is not None

    def altered(self) -> list[str]:
        rows = self.router.execute("select altered from farebox.moves").fetchall()
        return list(rows[0][0]) if rows else []

    # -- the steps --------------------------------------------------------------------------------------

    def check(self, source_dsn: str | None) -> Iterator[MoveProgress]:
        for shard, conn in ((self.away, self.source), (self.to, self.target)):
            if conn.execute("select where to_regclass('farebox.stray_partitions') is null").rowcount:
                raise ConfigurationError(
                    f"shard {shard.name} is older than this program", hint="farebox shards migrate"
                )
            row = conn.execute("select cluster_id, shard from farebox.sharding").fetchone()
            if row != (self.layout.cluster_id, shard.number):
                raise ConfigurationError(f"{shard.place} is not the shard {shard.name}: farebox shards check")
        if not self.source.execute(
            "select from farebox.own_partitions where partition = %s and is_open", [self.partition]
        ).rowcount:
            raise ConfigurationError(
                f"{self.away.name} has not partition {self.partition}: the router's map is wrong",
                hint="farebox shards check",
            )
        versions = [
            conn.execute("select max(migration_id) from farebox_migrations._yoyo_migration").fetchone()
            for conn in (self.source, self.target)
            if conn.execute("select to_regclass('farebox_migrations._yoyo_migration')").fetchone() != (None,)
        ]
        if len(set(versions)) > 1:
            raise ConfigurationError("the shards are not of one version", hint="farebox shards migrate")
        self.replication.check(source_dsn or self._way_to_source())
        self.replication.prove_filter()
        there = self.target.execute(
            "select (select count(*) from farebox.companies where farebox._partition_of(id::text) = %(p)s)"
            " + (select count(*) from farebox.claims where farebox._partition_of(subject) = %(p)s)",
            {"p": self.partition},
        ).fetchone()
        if there != (0,):
            raise ConfigurationError(
                f"{self.to.name} has rows of partition {self.partition} already",
                hint="Nobody knows whose they are. Remove them by hand, when you are sure.",
            )
        logins = self.source.execute(
            "select login from farebox.company_logins where farebox._partition_of(company_id::text) = %s",
            [self.partition],
        ).fetchall()
        known = self.target.execute(
            "select rolname from pg_roles where rolname = any (%s)", [[login for (login,) in logins]]
        ).fetchall()
        missing = sorted({login for (login,) in logins} - {login for (login,) in known})
        if missing:
            yield MoveProgress(
                "checking",
                f"{self.to.name} has no roles {', '.join(missing)}: these companies' logins cannot read"
                " there until somebody creates them (create role … login in role farebox_company)",
            )

    def note(self) -> None:
        """From here on the move has begun: what is made for it will be found again."""
        self.router.execute(
            "insert into farebox.moves (partition, source, target, altered) values (%s, %s, %s, %s)",
            [self.partition, self.away.number, self.to.number, self.replication.altered()],
        )

    def copy(self, source_dsn: str | None) -> Iterator[MoveProgress]:
        self.target.execute(
            "insert into farebox.stray_partitions (partition, is_coming) values (%s, true)"
            " on conflict (partition) do nothing",
            [self.partition],
        )
        yield MoveProgress("copying", "publishing on the source")
        self.replication.publish()
        yield MoveProgress("copying", "making the slot; it waits for transactions that write now")
        self.replication.make_slot()
        yield MoveProgress("copying", "subscribing on the target")
        self.replication.subscribe(source_dsn or self._way_to_source())
        while (state := self.replication.state()) is not None:
            text = f"{state.done} of {len(TABLES)} tables copied"
            yield MoveProgress("copying", text, state.rows, state.behind)
            time.sleep(0.1)

    def _way_to_source(self) -> str:
        """Our own DSN with the password that it had in the end, from wherever (a passfile is on our side)."""
        way = conninfo_to_dict(self._source_dsn) | {"passfile": None}
        if self.source.info.password:
            way["password"] = self.source.info.password
        return make_conninfo("", **way)

    def hold(self) -> None:
        """No other run of a move is at work on the source from now on: one may be whose router was gone."""
        try:
            with self.source.transaction():
                self.source.execute("set local lock_timeout = '10s'")
                self.source.execute(
                    "select pg_advisory_lock('farebox.own_partitions'::regclass::oid::int, -1)"
                )
        except psycopg.errors.LockNotAvailable:
            raise TransientError(
                "another run of this move is at work", hint="Wait for it, or end it."
            ) from None

    def hand_over(self, seconds: float) -> Iterator[MoveProgress]:
        """Opens the target, or raises and everything is as before."""
        self.hold()
        if handover.is_on_target(self.target, self.partition):
            return  # another run was faster
        self.replication.flush_at_once()
        row = self.source.execute(
            "select is_open from farebox.own_partitions where partition = %s", [self.partition]
        ).fetchone()
        is_walled = row == (False,)
        yield MoveProgress("catching up", "the target catches up")
        self._catch_up(seconds)
        [(now,)] = self.source.execute("select clock_timestamp()").fetchall()
        yield MoveProgress("comparing", "comparing the tickets so far")
        companies = handover.companies_of(self.source, self.partition)
        _refuse_difference(handover.compare_settled(self.source, self.target, companies, now - _MARGIN))
        self._catch_up(seconds)

        many = handover.count_small(self.source, self.partition)
        too_long = f"handing over {many:,} queued requests and other small rows took longer"

        # Callers wait for this lock as long as the partition is closed and we live; see _await_partitions.
        self.source.execute(
            "select pg_advisory_lock('farebox.own_partitions'::regclass::oid::int, %s)", [self.partition]
        )
        yield MoveProgress("closing", f"closing partition {self.partition}", many)
        try:
            if not is_walled:
                handover.fence(self.source, self.partition, seconds)
            deadline = time.monotonic() + (_WALL_SECONDS if is_walled else seconds)
            yield MoveProgress("closed", "the target catches up with what was sold last")
            if not self.replication.catch_up(max(0.0, deadline - time.monotonic())):
                raise handover.over_time(seconds, "the target did not catch up", is_walled=is_walled)
            self.rows = handover.SmallRows(self._open(self._source_dsn), self.partition)
            self.rows.conn.execute("begin")
            with self.target.transaction():
                self._hurry(deadline)
                yield MoveProgress("closed", "handing over what is small", self.rows.lock())
                self._hurry(deadline)
                self.rows.bring(self.target)
                self._hurry(deadline)
                if self.layout.has_registry:
                    handover.bring_notes(self.source, self.target, self.partition)
                companies = handover.companies_of(self.source, self.partition)
                _refuse_difference(handover.compare(self.source, self.target, companies, now - _MARGIN))
                yield MoveProgress("closed", "closing the source for good")
                handover.open_target(self.target, self.partition)
                is_walled = is_walled or handover.close_for_good(self.source, self.partition)
                if not is_walled:
                    raise handover.over_time(seconds, too_long)
                yield MoveProgress("closed", "opening the target")
        except psycopg.errors.QueryCanceled:
            raise handover.over_time(seconds, too_long, is_walled=is_walled) from None
        finally:
            # Whatever it was: behind a wall the next run goes on, and before it there are no two owners.
            if not is_walled and not self.source.closed:
                self.source.execute("set statement_timeout = 0")
                handover.reopen(self.source, self.partition)
        for conn in (self.source, self.target, self.rows.conn):
            conn.execute("set statement_timeout = 0")

    def _hurry(self, deadline: float) -> None:
        """From now on a statement of the hand-over is cancelled at the deadline."""
        left = max(100, round((deadline - time.monotonic()) * 1000))
        for conn in (self.source, self.target, *([self.rows.conn] if self.rows else [])):
            conn.execute(f"set statement_timeout = {left}".encode())

    def _catch_up(self, seconds: float) -> None:
        """Until the target is so near that the fence will be short: within a fifth of its time."""
        for _ in range(_ATTEMPTS):
            started = time.monotonic()
            if self.replication.catch_up(600) and time.monotonic() - started < seconds / 5:
                return
        raise TransientError(
            f"the target stays behind: {self.replication.behind():,} bytes",
            hint="Run the same command again at a quieter time, or with a longer --fence-seconds.",
        )

    def switch(self) -> Iterator[MoveProgress]:
        """The router's map; from here on callers find the target. Those who waited may ask again.

        Then the maps of those who read from standbys: before the rows go that they would look for.
        """
        shards = tuple(
            replace(
                shard,
                partitions=tuple(
                    sorted({*shard.partitions, self.partition})
                    if shard.number == self.to.number
                    else (known for known in shard.partitions if known != self.partition)
                ),
            )
            for shard in self.layout.shards
        )
        layout = replace(self.layout, shards=shards)
        with self.router.transaction():
            write_map(self.router, layout)
        self.source.execute("select pg_advisory_unlock_all()")
        for place, why in tell_readers(self.router, self._router_dsn, layout):
            yield MoveProgress(
                "switching", f"the reader {place} keeps its old map ({why}): farebox shards migrate mends it"
            )

    def wait_for_old_calls(self) -> None:
        """Calls that read the old map have ended before rows are deleted that they might look for."""
        [(now,)] = self.router.execute("select clock_timestamp()").fetchall()
        deadline = time.monotonic() + OLD_CALLS_SECONDS
        while (
            time.monotonic() < deadline
            and self.router.execute(
                "select from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
                " and backend_type = 'client backend' and state = 'active' and xact_start < %s",
                [now],
            ).rowcount
        ):
            time.sleep(0.02)

    def clean_up(self) -> Iterator[MoveProgress]:
        """Ends the replication, and deletes on the source what is on the target."""
        yield MoveProgress("cleaning", f"{self.away.name} forgets partition {self.partition}")
        if self.rows is None:
            # A run that died has handed them over, and they are here as well. They go with the wall before
            # them: between the two a worker would make tickets of them here too.
            with self.source.transaction():
                self._take_small_rows()
                self._forget_partition(self.source)
        else:
            self._forget_partition(self.rows.conn)
            self.rows.remove()
            self.rows.conn.execute("commit")
        for told in self.replication.end(self.altered()):
            yield MoveProgress("cleaning", told)
        if not self.replication.is_over():  # or what is deleted here would be deleted there
            raise MigrationError("the replication has not ended", hint="Run the same command again.")
        self._sweep()
        for rows in remove_left_behind(self.source, self.target, self.partition):
            yield MoveProgress("cleaning", f"removing from {self.away.name} what is on {self.to.name}", rows)
        self.source.execute("delete from farebox.stray_partitions where partition = %s", [self.partition])
        self.forget()

    def _forget_partition(self, source: Connection) -> None:
        source.execute(
            "insert into farebox.stray_partitions (partition, is_coming) values (%s, false)"
            " on conflict (partition) do nothing",
            [self.partition],
        )
        source.execute("delete from farebox.own_partitions where partition = %s", [self.partition])

    def _sweep(self) -> None:
        """Small rows that are still there: a run died behind the switch, or an administrator was quick."""
        found = True
        while found:
            with self.source.transaction():
                found = self._take_small_rows()

    def _take_small_rows(self) -> bool:
        """Those that are there now go to the target, in the caller's transaction; whether there were any."""
        rows = handover.SmallRows(self.source, self.partition)
        if not rows.lock():
            return False
        with self.target.transaction():
            rows.bring(self.target)
        rows.remove()
        return True

    def forget(self) -> None:
        """The move has ended."""
        self.router.execute("delete from farebox.moves")


def _refuse_difference(differs: str | None) -> None:
    if differs is not None:
        raise MigrationError(f"the two sides differ: {differs}", hint="Take the move back with --abort.")


def _router(stack: ExitStack, router_dsn: str) -> tuple[Connection, Layout]:
    """The router, and its map, which nobody else changes as long as that connection lives."""
    router = stack.enter_context(connect(router_dsn))
    hold_map(router)
    layout = read_layout(router)
    if router.execute("select where to_regproc('farebox._at_refused_requests') is null").rowcount:
        raise ConfigurationError("this router is older than this program", hint="farebox shards migrate")
    return router, layout
