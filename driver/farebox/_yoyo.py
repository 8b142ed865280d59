"""yoyo's PostgreSQL backend with the habits changed that would hurt a payment system.

* yoyo commits a migration on one connection and notes it on another, so a crash in between leaves it applied
  but not noted. Here both happen in one transaction.
* yoyo's lock is a committed row, which a killed process leaves behind. Here the row is inserted and never
  committed: the plain ``yoyo`` command waits for it just the same, and it dies with its connection.
* yoyo's tables go wherever the search path points, where another application may already keep its own.
  Here they live in the schema ``farebox_migrations``, qualified, so no session state is needed.
* yoyo cuts a file into statements, which takes it half a second, sends each with a savepoint that it never
  releases, and prints what it returns. Here a file goes as one message, which the server cuts itself: over a
  slow line seconds instead of minutes, in which the migration holds its locks.

The tables stay yoyo's own: ``yoyo apply`` with ``?schema=farebox_migrations`` sees the same state.
"""

import getpass
import os
import socket
import time
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import psycopg
from psycopg import errors as pg
from yoyo import default_migration_table
from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend
from yoyo.migrations import Migration, parse_metadata_from_sql_comments

from farebox._migration_files import ROLLBACK_SUFFIX, SCHEMA, checksum
from farebox.errors import MigrationError

APPLICATION_NAME: Final = "farebox migrate"

DDL_LOCK_SECONDS: Final = 10
"""How long a migration waits for a table that somebody uses; queueing longer would stop everybody else."""

BOOTSTRAP_KEY: Final = 4_706_270_921_135_071
"""The advisory lock of whoever creates the bookkeeping."""

_LOCK_POLL_SECONDS: Final = 0.25


class Backend(PostgresqlPsycopgBackend):
    """One connection that applies migrations; ``uri`` is any libpq connection string."""

    uri: str

    def __init__(self, uri: str, migration_table: str = default_migration_table) -> None:
        self._own_tables = {self.lock_table, self.log_table, self.version_table, migration_table}
        super().__init__(uri, migration_table)

    def connect(self, dburi: str) -> psycopg.Connection[tuple[Any, ...]]:
        """Connects in autocommit mode; yoyo sends BEGIN and COMMIT itself."""
        return psycopg.connect(
            dburi,
            autocommit=True,
            prepare_threshold=None,
            application_name=APPLICATION_NAME,
            # Whatever PGCLIENTENCODING says: the files are UTF-8.
            client_encoding="UTF8",
        )

    def quote_identifier(self, s: str) -> str:
        """Quotes a name; yoyo's own tables get their schema in front."""
        quoted = super().quote_identifier(s)
        return f"{SCHEMA}.{quoted}" if s in self._own_tables else quoted

    def list_tables(self, **_: Any) -> list[str]:
        """The tables of our schema, also those this login may not read (information_schema hides them)."""
        return [
            name for (name,) in self.execute(f"select tablename from pg_tables where schemaname = '{SCHEMA}'")
        ]

    def create_bookkeeping(self) -> None:
        """Creates the schema and yoyo's lock table where missing; several processes may do so at once."""
        with self.transaction():
            self.execute(f"select pg_advisory_xact_lock({BOOTSTRAP_KEY})")
            if self.execute(f"select from pg_namespace where nspname = '{SCHEMA}'").fetchone() is None:
                self.execute(f"create schema {SCHEMA}")
                self.execute(
                    f"comment on schema {SCHEMA} is 'Which Farebox migrations are applied; kept by yoyo'"
                )
            if self.lock_table not in self.list_tables():
                self.execute(self.format_sql(self.create_lock_table_sql))

    @contextmanager
    def lock(self, timeout: float = 10) -> Generator[None]:
        """Keeps every other migration out, plain yoyo's too.

        Raises MigrationError after ``timeout`` seconds of waiting for a running migration, or when the row of
        a killed ``yoyo`` process stands in the way.
        """
        if self._is_locked:
            yield
            return
        with self.connect(self.uri) as holder:
            self._insert_lock(holder, timeout)
            self._is_locked = True
            try:
                yield
            finally:
                self._is_locked = False
                # A lost connection has given the lock back already, and its error must not hide the real one.
                if not holder.closed:
                    holder.execute("rollback")

    def _insert_lock(self, holder: psycopg.Connection[Any], timeout: float) -> None:
        table = self.quote_identifier(self.lock_table)
        insert = f"insert into {table} (locked, ctime, pid) values (1, %s, %s)".encode()
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            holder.execute("begin")
            # The row must outlive a long migration, whatever the server does to idle transactions.
            holder.execute("set local idle_in_transaction_session_timeout = 0")
            holder.execute(f"set local lock_timeout = {max(1, int(left * 1000))}".encode())
            try:
                holder.execute(insert, (_utc_now(), os.getpid()))
                return
            except pg.LockNotAvailable as error:
                holder.execute("rollback")
                raise MigrationError(
                    f"another farebox migrate or rollback has been running for more than {timeout:g} s",
                    sqlstate=error.sqlstate,
                    hint=f"Wait until it ends; pg_stat_activity shows it as '{APPLICATION_NAME}'.",
                ) from error
            except pg.UniqueViolation as error:
                holder.execute("rollback")
                if left > _LOCK_POLL_SECONDS:
                    time.sleep(_LOCK_POLL_SECONDS)
                    continue
                raise MigrationError(
                    f"a yoyo process has locked the migrations of this database{self._lock_owner()}",
                    sqlstate=error.sqlstate,
                    hint="If no yoyo runs, one was killed and left its lock: farebox migrate --break-lock",
                ) from error

    def _lock_owner(self) -> str:
        row = self.execute(f"select pid, ctime from {self.quote_identifier(self.lock_table)}").fetchone()
        return f" (process {row[0]} of some machine, since {row[1]:%Y-%m-%d %H:%M:%S} UTC)" if row else ""

    def apply_one(self, migration: Migration, force: bool = False, mark: bool = True) -> None:
        """Applies ``migration`` and notes it, both or neither; ``force`` is refused."""
        self._run(migration, "apply", self.mark_one, force=force or not mark)

    def rollback_one(self, migration: Migration, force: bool = False) -> None:
        """Rolls ``migration`` back and forgets it, both or neither; ``force`` is refused."""
        self._run(migration, "rollback", self.unmark_one, force=force)

    def _run(
        self,
        migration: Migration,
        direction: Literal["apply", "rollback"],
        note: Callable[..., None],
        *,
        force: bool,
    ) -> None:
        if force:
            raise MigrationError("a migration is applied whole and noted, or not at all")
        self.ensure_internal_schema_updated()
        up = Path(migration.path)
        if directives(up).get("transactional", "true").lower() == "false":
            # What cannot run in a transaction (create index concurrently) has yoyo's own guarantees only.
            if direction == "apply":
                super().apply_one(migration)
            else:
                super().rollback_one(migration)
            return
        with self.transaction():
            self.execute(f"set local lock_timeout = '{DDL_LOCK_SECONDS}s'")
            self.execute("set local statement_timeout = 0")
            # Nobody's function in another schema may be taken for one of the server's.
            self.execute("set local search_path = pg_catalog, pg_temp")
            file = up if direction == "apply" else up.with_name(f"{migration.id}{ROLLBACK_SUFFIX}")
            self.connection.execute(file.read_bytes(), prepare=False)
            self.log_migration(migration, direction)
            note(migration, log=False)

    def log_migration(self, migration: Migration, operation: str) -> None:
        """Adds a line to yoyo's log; its comment says which text of the migration it was."""
        data = self.get_log_data(migration, operation)
        data["comment"] = f"sha256:{checksum(Path(migration.path).read_bytes())}"
        columns = ", ".join(data)
        values = ", ".join(f":{name}" for name in data)
        self.execute(
            f"insert into {self.quote_identifier(self.log_table)} ({columns}) values ({values})", data
        )

    def get_log_data(self, migration: Migration | None = None, operation: str = "apply") -> dict[str, Any]:
        """What yoyo logs, without its DNS look-up, and also where the user has no name (containers)."""
        return {
            "id": str(uuid.uuid4()),
            "migration_id": migration.id if migration else None,
            "migration_hash": migration.hash if migration else None,
            "username": _user_name(),
            "hostname": socket.gethostname(),
            "created_at_utc": _utc_now(),
            "operation": operation,
        }


def directives(path: Path) -> dict[str, str]:
    """What the first lines of a migration tell yoyo: ``depends`` and ``transactional``, if they do."""
    return parse_metadata_from_sql_comments(path.read_text(encoding="utf-8"))[0]


def _utc_now() -> datetime:
    """Now in UTC without a zone, the type of yoyo's columns."""
    return datetime.now(UTC).replace(tzinfo=None)


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
