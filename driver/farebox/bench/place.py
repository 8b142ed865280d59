"""Where it is measured: databases of the benchmark's own on the server that was named, dropped at the end."""

from __future__ import annotations

import asyncio
import secrets
import signal
import threading
from collections.abc import Coroutine, Generator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Final, Self

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from farebox import migrate
from farebox._migration_files import SCHEMA as BOOKKEEPING
from farebox._preflight import ROLES
from farebox.errors import ConfigurationError, PermissionDeniedError, map_error

PREFIX: Final = "farebox_bench_"
FLOOR_SCHEMA: Final = "farebox_bench"

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_STRANGERS: Final = "select nspname from pg_namespace where nspname = any(%s)"


class Place:
    """Migrated databases that are gone when the block ends, also after Ctrl-C and SIGTERM.

    Where the login may not create databases, the named one serves, if it has no schema of that name: there is
    only one then.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._databases: list[str] = []
        self._roles_before: set[str] = set()
        self._is_guest = False
        self._guard: psycopg.Connection[tuple[Any, ...]] | None = None
        self.dsn = ""

    @property
    def is_guest(self) -> bool:
        """Whether it is a schema in a database of somebody else's."""
        return self._is_guest

    def __enter__(self) -> Self:
        try:
            self._guard = connect(self._dsn)
            # Held by every benchmark at work, so that none takes away the roles that another one needs.
            self._guard.execute("select pg_advisory_lock_shared(%s)", [_LOCK])
            self._roles_before = _roles(self._guard)
        except psycopg.Error as error:
            raise map_error(error) from None
        try:
            with _undisturbed() as stopped:
                try:
                    self.dsn = self._create()
                except PermissionDeniedError as error:
                    self._move_in(error)
                migrate.apply(self.dsn)
            if stopped:
                raise KeyboardInterrupt
        except BaseException:
            self._clear()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._clear()

    def another(self) -> str:
        """The connection string of one more database. Raises PermissionDeniedError."""
        with _undisturbed() as stopped:
            dsn = self._create()
            migrate.apply(dsn)
        if stopped:
            raise KeyboardInterrupt
        return dsn

    def drop(self, dsn: str) -> None:
        """Drop one of them before the end."""
        self._drop(str(conninfo_to_dict(dsn)["dbname"]))

    def _create(self) -> str:
        name = f"{PREFIX}{secrets.token_hex(4)}"
        with _connect(self._dsn) as conn:
            self._databases.append(name)
            conn.execute(
                sql.SQL("create database {} template template0 encoding 'UTF8'").format(sql.Identifier(name))
            )
        return make_conninfo(self._dsn, dbname=name)

    def _move_in(self, refused: PermissionDeniedError) -> None:
        self._databases.clear()
        with _connect(self._dsn) as conn:
            found = conn.execute(_STRANGERS, [["farebox", BOOKKEEPING, FLOOR_SCHEMA]]).fetchall()
        if found:
            raise PermissionDeniedError(
                f"this login may not create databases, and the one it names has a schema {found[0][0]}",
                sqlstate=refused.sqlstate,
                hint="Benchmarks keep out of databases in use: name an empty one, or grant CREATEDB.",
            )
        self._is_guest = True
        self.dsn = self._dsn

    def _clear(self) -> None:
        with _undisturbed():
            if self._is_guest:
                self._move_out()
            for name in list(self._databases):
                self._drop(name)
            if self._guard is not None:
                self._guard.close()
            with _connect(self._dsn) as conn:
                if conn.execute("select pg_try_advisory_lock(%s)", [_LOCK]).fetchone() == (True,):
                    for role in sorted(_roles(conn) - self._roles_before):
                        # Another database may have come to need it.
                        with suppress(psycopg.Error):
                            conn.execute(sql.SQL("drop role {}").format(sql.Identifier(role)))

    def _move_out(self) -> None:
        with _connect(self._dsn) as conn:
            # Sessions that were cut off may still be at work.
            conn.execute(
                "select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname ="
                " current_database() and usename = current_user and pid <> pg_backend_pid()"
                " and application_name = %s",
                [_APPLICATION],
            )
            conn.execute(sql.SQL("drop schema if exists {} cascade").format(sql.Identifier(FLOOR_SCHEMA)))
        migrate.rollback(self._dsn, count=None)
        with _connect(self._dsn) as conn:
            conn.execute(sql.SQL("drop schema if exists {} cascade").format(sql.Identifier(BOOKKEEPING)))

    def _drop(self, name: str) -> None:
        with _connect(self._dsn) as conn:
            conn.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))
        self._databases.remove(name)


_APPLICATION: Final = "farebox bench"
_LOCK: Final = 0x66617265626F78  # "farebox", among advisory locks


def connect(dsn: str) -> psycopg.Connection[tuple[Any, ...]]:
    """An autocommit connection to measure or look with."""
    return psycopg.connect(dsn, autocommit=True, application_name=_APPLICATION, connect_timeout=30)


@contextmanager
def _connect(dsn: str) -> Generator[psycopg.Connection[tuple[Any, ...]]]:
    """The same, its errors those of Farebox."""
    try:
        with connect(dsn) as conn:
            yield conn
    except psycopg.Error as error:
        raise map_error(error) from None


def _roles(conn: psycopg.Connection[Any]) -> set[str]:
    return {
        name
        for (name,) in conn.execute("select rolname from pg_roles where rolname = any(%s)", [list(ROLES)])
    }


@contextmanager
def ended_by_signals() -> Generator[None]:
    """SIGTERM ends the block as Ctrl-C does, by KeyboardInterrupt, so that what it made is cleared away."""
    is_stopped = False

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal is_stopped
        is_stopped = True
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stop) for number in _SIGNALS}
    try:
        yield
    except Exception:
        # Whatever failed because it was cut off: that is no error.
        if is_stopped:
            raise KeyboardInterrupt from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_until_stopped(work: Coroutine[Any, Any, None]) -> None:
    """Run it on an event loop; a signal cancels it, so that its tasks end in order, then interrupts."""

    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        for number in before:
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        await work

    is_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in _SIGNALS if is_main}
    try:
        asyncio.run(main())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        # The loop has put back the system's defaults.
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _undisturbed() -> Generator[list[int]]:
    """Signals are noted, nothing else: what is begun here is not left half done."""
    noted: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    before = {
        number: signal.signal(number, lambda number, _frame: noted.append(number)) for number in _SIGNALS
    }
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_DURABLE: Final = ("fsync", "full_page_writes", "synchronous_commit")


def not_durable(dsn: str) -> list[str]:
    """The settings by which a session of that connection string could lose an acknowledged ticket."""
    with _connect(dsn) as conn:
        values = conn.execute(
            "select name, setting from pg_settings where name = any(%s)", [list(_DURABLE)]
        ).fetchall()
    return [f"{name} = {value}" for name, value in values if value in ("off", "local")]


def require_durable(dsn: str) -> None:
    """Raises ConfigurationError for a server, or settings of the login or the connection, that are not."""
    if weak := not_durable(dsn):
        raise ConfigurationError(
            f"not durable: {', '.join(weak)}",
            hint="A rate that loses tickets says nothing. --even-if-not-durable measures all the same.",
        )
