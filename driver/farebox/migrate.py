"""Applies, rolls back, lists and prints the migrations of ``migrations/``; yoyo does the work.

Safe to run from several processes at once, to kill at any moment and to run again. Every migration is applied
whole and noted in the same transaction, or not at all.

yoyo is imported where it is used: loading it takes time, and few commands need it.
"""

from __future__ import annotations

import glob
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

from farebox._migration_files import SCHEMA, MigrationFile, read_files
from farebox._preflight import check_server, refuse_sharded, refuse_strange_schema, require_rights
from farebox._script import script
from farebox.errors import FareboxError, MigrationError, map_error

if TYPE_CHECKING:
    from yoyo.migrations import Migration

    from farebox._yoyo import Backend

LOCK_SECONDS = 10.0
"""How long to wait for another migration of the same database before giving up."""


@dataclass(frozen=True, slots=True)
class MigrationStatus:
    """One migration in one database.

    ``applied_at`` is None while it is pending. ``edited``: its released file was changed, or the database was
    migrated with another text than the file holds now. ``known`` is False for what a newer Farebox applied.
    """

    id: str
    applied_at: datetime | None
    edited: bool
    has_rollback: bool
    known: bool = True


def apply(
    dsn: str,
    *,
    target: str | None = None,
    folder: Path | None = None,
    lock_seconds: float = LOCK_SECONDS,
    sharded: bool = False,
) -> list[str]:
    """Applies what is pending, up to and including ``target`` (an id or its number; default: everything).

    ``dsn`` is a libpq connection string or URL. Returns the ids applied, in order; an empty list when the
    database was up to date. Each migration commits by itself: after an error the ones before it stay, and a
    second run goes on there. ``sharded`` is for `farebox shards migrate` alone: a router or shard has
    functions of its own on top, which have to be loaded again.

    Raises MigrationError: edited or incomplete migrations, a database newer than this package or unfit for
    it, a lock that does not come free, an error of the server; PermissionDeniedError: rights that are
    missing, with the GRANT that gives them; TransientError or ConfigurationError when there is no connection.
    """
    files = _complete(read_files(folder))
    wanted = files if target is None else files[: _index(files, target) + 1]
    with _backend(dsn) as backend:
        check_server(backend.connection)
        if not sharded:
            refuse_sharded(backend.connection)
        require_rights(backend.connection, to_apply=True)
        backend.create_bookkeeping()
        with backend.lock(lock_seconds):
            backend.ensure_internal_schema_updated()
            states = _states(backend.connection, files)
            _refuse_unknown(states)
            _refuse_edited(states)
            if not any(state.applied_at for state in states):
                refuse_strange_schema(backend.connection)
            pending = {state.id for state in states if state.applied_at is None}
            return _run(backend, [file for file in wanted if file.id in pending], rollback=False)


def rollback(
    dsn: str,
    *,
    count: int | None = 1,
    target: str | None = None,
    expected: Sequence[str] | None = None,
    folder: Path | None = None,
    lock_seconds: float = LOCK_SECONDS,
) -> list[str]:
    """Rolls back the last ``count`` migrations (None: all), or everything after ``target``, which stays.

    Rolling back drops what the migration created, with the data in it. Returns the ids rolled back, newest
    first; an empty list when there was nothing to do. Raises as :func:`apply`, and MigrationError when it
    would roll back something else than ``expected``, which is what a preview had shown.
    """
    files = _complete(read_files(folder))
    if target is not None:
        _index(files, target)
    with _backend(dsn) as backend:
        check_server(backend.connection)
        refuse_sharded(backend.connection)
        require_rights(backend.connection, to_apply=False)
        if not _has_bookkeeping(backend.connection):
            return []
        with backend.lock(lock_seconds):
            states = _states(backend.connection, files)
            _refuse_unknown(states)
            chosen = _to_roll_back(files, states, count, target)
            if expected is not None and [file.id for file in chosen] != list(expected):
                raise MigrationError(
                    "somebody has migrated this database meanwhile; nothing was rolled back",
                    hint="Look again at what would be rolled back.",
                )
            return _run(backend, chosen, rollback=True)


def preview_rollback(
    dsn: str, *, count: int | None = 1, target: str | None = None, folder: Path | None = None
) -> list[str]:
    """What :func:`rollback` with the same arguments would roll back now, newest first. Reads only."""
    files = read_files(folder)
    with _backend(dsn) as backend:
        states = _states(backend.connection, files)
    return [file.id for file in _to_roll_back(files, states, count, target)]


def status(dsn: str, *, folder: Path | None = None) -> list[MigrationStatus]:
    """Every migration of this package and of the database, in order. Reads only.

    Raises MigrationError when the folder is broken, PermissionDeniedError when the login may not read the
    bookkeeping, TransientError or ConfigurationError when there is no connection.
    """
    files = read_files(folder)
    with _backend(dsn) as backend:
        return _states(backend.connection, files)


def break_lock(dsn: str) -> bool:
    """Removes the lock that a killed ``yoyo`` left; True when there was one. Farebox itself leaves none."""
    with _backend(dsn) as backend:
        if not _has_bookkeeping(backend.connection):
            return False
        table = backend.quote_identifier(backend.lock_table)
        return backend.connection.execute(f"delete from {table}".encode()).rowcount > 0


def render(*, rollback: bool = False, pending_for: str | None = None, folder: Path | None = None) -> str:
    """The migrations as one SQL script, to review or to paste where no command line reaches the database.

    Everything, or what is pending for (with ``rollback``: applied to) the database with the DSN
    ``pending_for``. The script is one transaction and notes what it did as yoyo would, so that
    ``farebox migrate`` and ``yoyo`` go on from there. Refused is what :func:`apply` and :func:`rollback`
    refuse: a database newer than this package, of another text, or part of a sharded installation.
    """
    files = _complete(read_files(folder))
    if pending_for is not None:
        with _backend(pending_for) as backend:
            refuse_sharded(backend.connection)
            states = _states(backend.connection, files)
        _refuse_unknown(states)
        if not rollback:
            _refuse_edited(states)
        applied = {state.id for state in states if state.applied_at is not None}
        files = [file for file in files if (file.id in applied) == rollback]
    return script(list(reversed(files)) if rollback else files, rollback=rollback)


def _run(backend: Backend, files: Sequence[MigrationFile], *, rollback: bool) -> list[str]:
    """Applies or rolls back ``files`` in the order given; returns their ids."""
    migrations = _load(files)
    for file in files:
        step = backend.rollback_one if rollback else backend.apply_one
        try:
            step(migrations[file.id])
        except psycopg.Error as error:
            raise _failed(file, error, rollback=rollback) from None
    return [file.id for file in files]


def _to_roll_back(
    files: Sequence[MigrationFile], states: Sequence[MigrationStatus], count: int | None, target: str | None
) -> list[MigrationFile]:
    """The applied ones after ``target`` or, without one, the last ``count``; newest first."""
    keep = 0 if target is None else _index(files, target) + 1
    applied = {state.id for state in states if state.applied_at is not None}
    chosen = [file for file in reversed(files[keep:]) if file.id in applied]
    return chosen[: count if target is None else None]


def _load(files: Sequence[MigrationFile]) -> dict[str, Migration]:
    """What yoyo knows of ``files``, by id."""
    from yoyo import read_migrations

    from farebox._yoyo import directives

    folders = {glob.escape(str(file.up.parent)) for file in files}
    migrations = {migration.id: migration for migration in read_migrations(*folders)}
    for file in files:
        if missing := set(directives(file.up).get("depends", "").split()) - migrations.keys():
            raise MigrationError(f"{file.id}: yoyo cannot read it: there is no {', '.join(sorted(missing))}")
    return migrations


@contextmanager
def _backend(dsn: str) -> Generator[Backend]:
    """A connected backend; psycopg's errors outside a migration come out as Farebox's."""
    from farebox._yoyo import Backend

    try:
        with Backend(dsn) as backend:
            yield backend
    except psycopg.Error as error:
        raise map_error(error) from None


def _has_bookkeeping(conn: psycopg.Connection[Any]) -> bool:
    return conn.execute("select to_regclass(%s) is not null", (f"{SCHEMA}.yoyo_lock",)).fetchone() == (True,)


def _states(conn: psycopg.Connection[Any], files: Sequence[MigrationFile]) -> list[MigrationStatus]:
    """What this package and this database know of each migration."""
    noted = _noted(conn)
    states = [
        MigrationStatus(
            id=file.id,
            applied_at=noted[file.id][0] if file.id in noted else None,
            edited=file.edited or noted.get(file.id, (None, None))[1] not in (None, file.sha256),
            has_rollback=file.down is not None,
        )
        for file in files
    ]
    newer = sorted(noted.keys() - {file.id for file in files})
    return states + [
        MigrationStatus(name, noted[name][0], edited=False, has_rollback=False, known=False) for name in newer
    ]


def _noted(conn: psycopg.Connection[Any]) -> dict[str, tuple[datetime, str | None]]:
    """By id: when it was applied, and the checksum of the text that was (None if plain yoyo applied it)."""
    if conn.execute("select to_regclass(%s)", (f"{SCHEMA}._yoyo_migration",)).fetchone() == (None,):
        return {}
    rows = conn.execute(
        f"""
        select m.migration_id, m.applied_at_utc, substring(l.comment from '^sha256:(.*)$')
        from {SCHEMA}._yoyo_migration m
        left join lateral (
          select l.comment from {SCHEMA}._yoyo_log l
          where l.migration_hash = m.migration_hash and l.operation in ('apply', 'mark')
          order by l.created_at_utc desc limit 1
        ) l on true
        """.encode()
    )
    return {name: (applied_at.replace(tzinfo=UTC), digest) for name, applied_at, digest in rows}


def _complete(files: list[MigrationFile]) -> list[MigrationFile]:
    """``files``; raises MigrationError if one lacks its rollback or was edited after its release."""
    if missing := [file.id for file in files if file.down is None]:
        raise MigrationError(
            f"without a rollback file: {', '.join(missing)}",
            hint="yoyo would 'roll back' such a migration by forgetting it; write <id>.rollback.sql.",
        )
    _refuse([file.id for file in files if file.edited], "edited after its release")
    return files


def _refuse(ids: list[str], problem: str) -> None:
    if ids:
        raise MigrationError(
            f"{problem}: {', '.join(ids)}",
            hint="A released migration never changes: restore the file (see SHA256SUMS) and put the change "
            "into a new one. A database made from an unreleased text has to be rolled back, or made anew.",
        )


def _refuse_edited(states: Sequence[MigrationStatus]) -> None:
    _refuse([state.id for state in states if state.edited], "edited after it was applied to this database")


def _refuse_unknown(states: Sequence[MigrationStatus]) -> None:
    if newer := [state.id for state in states if not state.known]:
        raise MigrationError(
            f"the database is newer than this Farebox: it has {', '.join(newer)}",
            hint="Install the version of Farebox that migrated it, or a later one.",
        )


def _index(files: Sequence[MigrationFile], target: str) -> int:
    """Where the migration with the id or number ``target`` stands in ``files``."""
    for index, file in enumerate(files):
        if target in (file.id, file.id.split(".")[0]):
            return index
    raise MigrationError(f"no migration {target!r}; there are {', '.join(file.id for file in files)}")


def _failed(file: MigrationFile, error: psycopg.Error, *, rollback: bool) -> FareboxError:
    """What the server said about ``file``, as a MigrationError; nothing of the migration stands."""
    told, detail = error.diag.message_primary or str(error).strip(), error.diag.message_detail
    if (error.sqlstate or "").startswith(("22", "23")):
        # Data errors quote the row, those about a value also in the message itself.
        detail = None
        if not error.diag.constraint_name:
            told = "a value in the tables does not fit"
    hint = error.diag.message_hint
    if error.sqlstate == "55P03":
        from farebox._yoyo import DDL_LOCK_SECONDS

        hint = (
            f"Somebody has kept a lock on a table for more than {DDL_LOCK_SECONDS} s; "
            "pg_stat_activity shows who. Run the command again."
        )
    elif error.sqlstate is None:
        hint = "The connection was lost; nothing of this migration was applied. Run the command again."
    return MigrationError(
        f"{file.id} could not be {'rolled back' if rollback else 'applied'}, and was not: {told}",
        sqlstate=error.sqlstate,
        detail=detail,
        hint=hint,
    )
