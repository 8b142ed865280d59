"""The logical replication of one partition: publication and slot on its shard, subscription on the next one.

Row filters pick the partition's rows (`farebox._partition_filter`). What they cost the source while a move
lasts: updates and deletes of four tables write the old row too (REPLICA IDENTITY FULL: a filter on
`company_id` must be answerable for the old row, and no other identity has that column without another index
on tickets). Tickets and their records are nearly only inserted, and a code's counter is one short row a
batch. The target finds rows by its own primary keys, whatever the source's identity is.

The slot is made by itself: CREATE SUBSCRIPTION would wait for itself where both shards share a server.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from farebox.errors import ConfigurationError, MigrationError, PermissionDeniedError, TransientError

Connection = psycopg.Connection[Any]

TABLES: Final = (
    ("companies", "id", "uuid"),
    ("routes", "company_id", "uuid"),
    ("payment_codes", "company_id", "uuid"),
    ("tickets", "company_id", "uuid"),
    ("transactions", "company_id", "uuid"),
    ("claims", "subject", "text"),
)
"""What is replicated, by which column and its type. Everything else is small and goes inside the fence."""
FULL: Final = ("routes", "payment_codes", "tickets", "transactions")
"""Those whose primary key has not the filter's column."""
_LOOK_SECONDS: Final = 1.0
_ERRORS: Final = 3
"""So many failures of the target's workers, and the move says that something is in its way."""


@dataclass(frozen=True, slots=True)
class CopyState:
    """How far the first copy is: rows of the tables being copied now, tables done, bytes to catch up."""

    rows: int
    done: int
    behind: int


class Replication:
    """One partition on its way. `name` names everything that is made for it, on both servers."""

    def __init__(self, source: Connection, target: Connection, partition: int, name: str) -> None:
        self.source = source
        self.target = target
        self.partition = partition
        self.name = name
        self._forgiven = 0

    # -- before -----------------------------------------------------------------------------------------

    def check(self, source_dsn: str) -> None:
        """Raises ConfigurationError or PermissionDeniedError, with what to do about it.

        `source_dsn`: by which the target's server will connect to the source.
        """
        here = self.source.info.host, self.source.info.port
        [level, slots, max_slots, senders, max_senders] = _one(
            self.source,
            "select current_setting('wal_level'), (select count(*) from pg_replication_slots)::int,"
            " current_setting('max_replication_slots')::int, (select count(*) from pg_stat_replication)::int,"
            " current_setting('max_wal_senders')::int",
        )
        if level != "logical":
            raise ConfigurationError(
                f"wal_level of the source ({here[0]}:{here[1]}) is {level}, a move needs logical",
                hint="alter system set wal_level = logical; then restart that server.",
            )
        # One for the stream, two for tables that are copied at the same time.
        if slots + 3 > max_slots or senders + 3 > max_senders:
            raise ConfigurationError(
                f"the source has {max_slots - slots} free replication slots and"
                f" {max_senders - senders} free senders; a move needs 3",
                hint="Raise max_replication_slots and max_wal_senders, or drop slots that nobody reads.",
            )
        [workers] = _one(self.target, "select current_setting('max_logical_replication_workers')::int")
        if workers < 2:
            raise ConfigurationError(
                f"max_logical_replication_workers of the target is {workers}, a move needs 2 or more",
                hint="alter system set max_logical_replication_workers = 4; then restart that server.",
            )
        self._check_rights(source_dsn)
        other = self.source.execute(
            "select relname from pg_class where relnamespace = 'farebox'::regnamespace"
            " and relname = any (%s) and relreplident not in ('d', 'f')",
            [list(FULL)],
        ).fetchall()
        if other:
            raise ConfigurationError(
                f"the source's table {other[0][0]} has a replica identity of its own",
                hint="alter table … replica identity default (or full) first.",
            )

    def _check_rights(self, source_dsn: str) -> None:
        [may] = _one(
            self.source,
            "select rolsuper or pg_has_role(current_user, 'farebox_owner', 'usage')"
            " and has_database_privilege(current_database(), 'create') and rolreplication"
            " from pg_roles where rolname = current_user",
        )
        if not may:
            raise PermissionDeniedError(
                f"the login {self.source.info.user} may not publish on the source",
                hint="It needs REPLICATION, CREATE on the database and farebox_owner, or be a superuser.",
            )
        version = self.target.info.server_version
        if version < 160000:
            query = "select rolsuper from pg_roles where rolname = current_user"
            hint = "Up to PostgreSQL 15 only a superuser may."
        else:
            # It applies what comes as the tables' owner, and so must be able to become that.
            query = (
                "select r.rolsuper or has_database_privilege(current_database(), 'create')"
                " and pg_has_role('pg_create_subscription', 'usage')"
                " and pg_has_role('farebox_owner', 'usage') and pg_has_role('farebox_owner', 'set')"
                " from pg_roles as r where r.rolname = current_user"
            )
            hint = (
                "It needs pg_create_subscription, CREATE on the database and farebox_owner (with inherit and"
                " set), or be a superuser."
            )
        [may] = _one(self.target, query)
        if not may:
            raise PermissionDeniedError(
                f"the login {self.target.info.user} may not subscribe on the target", hint=hint
            )
        [is_super] = _one(self.target, "select rolsuper from pg_roles where rolname = current_user")
        if not is_super and not conninfo_to_dict(source_dsn).get("password"):
            raise _password_required(self.target)

    def filters(self) -> list[tuple[str, str]]:
        """Each table with its row filter."""
        return [
            (
                table,
                str(
                    _one(
                        self.source,
                        "select farebox._partition_filter(%s, %s, %s)",
                        [column, kind, self.partition],
                    )[0]
                ),
            )
            for table, column, kind in TABLES
        ]

    def prove_filter(self) -> None:
        """The filter and `_partition_of` agree on every company. Raises ConfigurationError."""
        [(_, condition)] = [known for known in self.filters() if known[0] == "companies"]
        [wrong] = _one(
            self.source,
            sql.SQL(
                "select count(*) from farebox.companies"
                " where ({}) is distinct from (farebox._partition_of(id::text) = {})"
            ).format(_trusted(condition), sql.Literal(self.partition)),
        )
        if wrong:
            raise ConfigurationError(f"the row filter is wrong about {wrong} companies: this is a bug")

    # -- the way there -----------------------------------------------------------------------------------

    def altered(self) -> list[str]:
        """The tables whose replica identity will have to be set back."""
        rows = self.source.execute(
            "select relname from pg_class where relnamespace = 'farebox'::regnamespace"
            " and relname = any (%s) and relreplident = 'd' order by relname",
            [list(FULL)],
        ).fetchall()
        return [name for (name,) in rows]

    def publish(self) -> None:
        """Replica identities first: with a publication but without them, updates would be refused."""
        for table in self.altered():
            self._set_identity(table, "full")
        if self.source.execute("select from pg_publication where pubname = %s", [self.name]).rowcount:
            return
        tables = sql.SQL(", ").join(
            sql.SQL("farebox.{} where ({})").format(sql.Identifier(table), _trusted(condition))
            for table, condition in self.filters()
        )
        self.source.execute(
            # Not TRUNCATE, which knows no row filter: it would empty the target's tables.
            sql.SQL("create publication {} for table {} with (publish = 'insert, update, delete')").format(
                sql.Identifier(self.name), tables
            )
        )

    def make_slot(self) -> None:
        """Waits for the transactions that write on the source now.

        Raises MigrationError when the subscription's own slot is gone, and with it what it had to bring.
        """
        is_there = self.source.execute(
            "select from pg_replication_slots where slot_name = %s and wal_status is distinct from 'lost'",
            [self.name],
        ).rowcount
        if self._subscription() is not None:
            if not is_there:
                raise self._slot_lost()
            return
        with contextlib.suppress(psycopg.errors.DuplicateObject):
            self.source.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [self.name])

    def subscribe(self, source_dsn: str) -> None:
        """The target connects to the source by that DSN. Raises ConfigurationError when it cannot."""
        if self._subscription() is not None:
            self._forgiven = self._failures()  # what went wrong before may have been mended
            return
        with self.target.transaction():
            # The statement has a password in it.
            with contextlib.suppress(psycopg.errors.InsufficientPrivilege), self.target.transaction():
                self.target.execute("set local log_min_error_statement = panic")
                self.target.execute("set local log_statement = none")
                self.target.execute("set local log_min_duration_statement = -1")
            try:
                with self.target.transaction():
                    self.target.execute(
                        sql.SQL(
                            "create subscription {0} connection {1} publication {0}"
                            " with (create_slot = false, slot_name = {2}, synchronous_commit = off)"
                        ).format(sql.Identifier(self.name), sql.Literal(source_dsn), sql.Literal(self.name))
                    )
            except psycopg.errors.ProhibitedSqlStatementAttempted:
                # The source lets this login in without asking for the password that it was given.
                raise _password_required(self.target) from None
            except (psycopg.OperationalError, psycopg.errors.InvalidParameterValue) as error:
                told = str(error.diag.message_primary or error).splitlines()[0]
                raise ConfigurationError(
                    f"the target cannot connect to the source: {told}",
                    hint="Name a way with --source-dsn: the address as the target's server sees it, and a"
                    " login with REPLICATION that its pg_hba.conf lets in.",
                ) from None

    def state(self) -> CopyState | None:
        """How far the first copy is; None when it is done. Raises TransientError when it fails again."""
        rows = self.target.execute(
            "select r.srsubstate, coalesce(p.tuples_processed, 0) from pg_subscription_rel as r"
            " join pg_subscription as s on s.oid = r.srsubid"
            " left join pg_stat_progress_copy as p on p.relid = r.srrelid and p.datname = current_database()"
            " join pg_database as d on d.oid = s.subdbid and d.datname = current_database()"
            " where s.subname = %s",
            [self.name],
        ).fetchall()
        done = sum(state == "r" for state, _ in rows)
        if done == len(TABLES):
            return None
        self._refuse_failures()
        return CopyState(sum(copied for _, copied in rows), done, self.behind())

    def _failures(self) -> int:
        """How often the target's workers have failed, since there is the subscription."""
        [failures] = _one(
            self.target,
            "select coalesce(max(apply_error_count + sync_error_count), 0)"
            " from pg_stat_subscription_stats where subname = %s",
            [self.name],
        )
        return int(failures)

    def _refuse_failures(self) -> None:
        failures = self._failures() - self._forgiven
        if failures >= _ERRORS:
            raise TransientError(
                f"the copy has failed {failures} times on the target",
                hint="The log of the target's server says why. Mend it and run the same command, or --abort.",
            )

    def behind(self) -> int:
        """Bytes of the source's log that the target has not confirmed."""
        row = self.source.execute(
            "select pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::bigint"
            " from pg_replication_slots where slot_name = %s",
            [self.name],
        ).fetchone()
        return 0 if row is None else max(0, int(row[0] or 0))

    def flush_at_once(self) -> None:
        """From now on the target confirms what it has on disk at each commit, not a moment later."""
        self.target.execute(
            sql.SQL("alter subscription {} set (synchronous_commit = 'local')").format(
                sql.Identifier(self.name)
            )
        )

    def catch_up(self, seconds: float) -> bool:
        """Waits until the target has on disk all that the source has written by now; False: too long.

        Raises TransientError when the target fails again and again, MigrationError when the slot is gone.
        """
        deadline = time.monotonic() + seconds
        look = time.monotonic() + _LOOK_SECONDS
        [written] = _one(self.source, "select pg_current_wal_lsn()")
        while True:
            row = self.source.execute(
                "select confirmed_flush_lsn >= %s::pg_lsn from pg_replication_slots where slot_name = %s",
                [written, self.name],
            ).fetchone()
            if row is None:
                raise self._slot_lost()
            if row[0]:
                return True
            if time.monotonic() > deadline:
                return False
            if time.monotonic() > look:
                self._refuse_failures()
                look = time.monotonic() + _LOOK_SECONDS
            time.sleep(0.01)

    def _slot_lost(self) -> MigrationError:
        return MigrationError(
            f"the replication slot {self.name} of the source is lost, and what it had to bring",
            hint="Take the move back with --abort and begin again.",
        )

    # -- the end -----------------------------------------------------------------------------------------

    def end(self, altered: list[str]) -> Iterator[str]:
        """Removes all that was made, in an order that never has a slot without its reader for long."""
        subscription = self._subscription()
        if subscription is not None:
            name = sql.Identifier(self.name)
            self.target.execute(sql.SQL("alter subscription {} disable").format(name))
            self.target.execute(sql.SQL("alter subscription {} set (slot_name = none)").format(name))
            self.target.execute(sql.SQL("drop subscription {}").format(name))
            yield "subscription dropped"
        self._drop_slots()
        yield "slot dropped"
        self.source.execute(sql.SQL("drop publication if exists {}").format(sql.Identifier(self.name)))
        for table in altered:
            self._set_identity(table, "default")
        yield "publication dropped"

    def is_over(self) -> bool:
        """Nothing of it is left that could carry a delete of the source to the target."""
        return (
            self._subscription() is None
            and not self.source.execute(
                "select from pg_replication_slots where slot_name = %s", [self.name]
            ).rowcount
        )

    def _subscription(self) -> int | None:
        row = self.target.execute(
            "select s.oid from pg_subscription as s join pg_database as d on d.oid = s.subdbid"
            " where s.subname = %s and d.datname = current_database()",
            [self.name],
        ).fetchone()
        return None if row is None else int(row[0])

    def _drop_slots(self) -> None:
        """The slot, and those that a first copy which never ended has left."""
        [system] = _one(self.target, "select system_identifier::text from pg_control_system()")
        deadline = time.monotonic() + 60
        while True:
            rows = self.source.execute(
                "select slot_name, active_pid from pg_replication_slots where database = current_database()"
                " and (slot_name = %s or slot_name ~ ('^pg_[0-9]+_sync_[0-9]+_' || %s || '$'))",
                [self.name, system],
            ).fetchall()
            if not rows:
                return
            for slot, active_pid in rows:
                if active_pid is not None:
                    self.source.execute("select pg_terminate_backend(%s)", [active_pid])
                    continue
                with contextlib.suppress(psycopg.errors.ObjectInUse, psycopg.errors.UndefinedObject):
                    self.source.execute("select pg_drop_replication_slot(%s)", [slot])
            if time.monotonic() > deadline:
                raise TransientError(
                    f"the replication slot {rows[0][0]} of the source cannot be dropped: it is in use",
                    hint="Run the same command again: it goes on here.",
                )
            time.sleep(0.02)

    def _set_identity(self, table: str, identity: LiteralString) -> None:
        """Takes the table for an instant; sales wait that long, and not behind a long reader."""
        statement = sql.SQL("alter table farebox.{} replica identity {}").format(
            sql.Identifier(table), sql.SQL(identity)
        )
        briefly(self.source, lambda: self.source.execute(statement), f"the table {table} of the source")


def _password_required(target: Connection) -> PermissionDeniedError:
    return PermissionDeniedError(
        f"the login {target.info.user} is no superuser of the target: it may subscribe only with a password",
        hint="Name one in --source-dsn, for which the source's pg_hba.conf asks; or be a superuser there.",
    )


def briefly(conn: Connection, action: Any, what: str, *, attempts: int = 40) -> None:
    """Runs `action` in a transaction that waits half a second at most for its locks; again, if it must.

    Half a second, because everybody else waits behind whoever waits for such a lock. Raises TransientError.
    """
    for attempt in range(attempts):
        try:
            with conn.transaction():
                conn.execute("set local lock_timeout = '500ms'")
                conn.execute("set local synchronous_commit = on")
                action()
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            time.sleep(0.05 * min(attempt + 1, 10))
        else:
            return
    raise TransientError(
        f"{what} is in use by a transaction that does not end",
        hint="End it (farebox doctor shows it), then run the same command again.",
    )


def _one(conn: Connection, query: LiteralString | sql.Composed, params: list[Any] | None = None) -> Any:
    row = conn.execute(query, params).fetchone()
    assert row is not None
    return row


def _trusted(condition: str) -> sql.SQL:
    """What `_partition_filter` of the source answered, made of names and numbers of ours."""
    return sql.SQL(condition)  # pyright: ignore[reportArgumentType]
