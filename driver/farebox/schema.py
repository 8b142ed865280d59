"""Loads ``db/``, the SQL that people edit, straight into an empty database.

Tests and experiments use this; databases that must live on are made by :mod:`farebox.migrate`. A test
proves that both give the same catalog.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from farebox._files import db_dir
from farebox.errors import ConfigurationError, MigrationError

MANIFEST = "farebox.sql"

_INCLUDE = re.compile(r"\\ir\s+(\S+)\s*")
_IGNORED = re.compile(r"\s*|--.*|\\set\s+ON_ERROR_STOP\s+\S+\s*|\\set\s+QUIET\s+\S+\s*")


@dataclass(frozen=True, slots=True)
class SqlFile:
    """One file of ``db/``: its path below that folder, with forward slashes, and its text."""

    name: str
    text: str


def manifest(folder: Path | None = None) -> list[SqlFile]:
    """The files that ``farebox.sql`` includes, in load order.

    The manifest is a psql script; only ``\\ir path``, comments and the settings of psql are understood, so
    that psql and this function cannot read it differently. Raises ConfigurationError for anything else, for
    a file that is missing, named twice or outside the folder, and when there is none.
    """
    root = (folder or db_dir()).resolve()
    names: list[str] = []
    for number, line in enumerate((root / MANIFEST).read_text(encoding="utf-8").splitlines(), start=1):
        where = f"{root / MANIFEST}:{number}"
        include = _INCLUDE.fullmatch(line)
        if include is None:
            if _IGNORED.fullmatch(line) is None:
                raise ConfigurationError(f"{where}: only \\ir lines and comments are allowed here: {line!r}")
            continue
        name = include.group(1)
        if name in names:
            raise ConfigurationError(f"{where}: {name} is included twice")
        if not (root / name).is_file() or not (root / name).resolve().is_relative_to(root):
            raise ConfigurationError(f"{where}: no file {name} below {root}")
        names.append(name)
    if not names:
        raise ConfigurationError(f"{root / MANIFEST} includes no file")
    return [SqlFile(name, (root / name).read_text(encoding="utf-8")) for name in names]


def forgotten(folder: Path | None = None) -> list[str]:
    """SQL files of ``db/`` that the manifest does not include: being written, or forgotten."""
    root = (folder or db_dir()).resolve()
    present = {path.relative_to(root).as_posix() for path in root.rglob("*.sql")}
    return sorted(present - {MANIFEST} - {file.name for file in manifest(root)})


def load_schema(conn: psycopg.Connection[Any], folder: Path | None = None) -> None:
    """Creates everything of ``db/`` in the database of ``conn``, in one transaction (all or nothing).

    Raises MigrationError that names the file and the line the server complained about.
    """
    files = manifest(folder)
    with conn.transaction():
        conn.execute("set local search_path = pg_catalog, pg_temp")
        for file in files:
            try:
                # Each file goes as one message of the simple protocol: the server splits it, nobody else.
                conn.execute(file.text.encode(), prepare=False)
            except psycopg.Error as error:
                raise located_error(file, error) from error


def located_error(file: SqlFile, error: psycopg.Error) -> MigrationError:
    """``error`` as a MigrationError that says where in ``file`` the server found it."""
    position = error.diag.statement_position
    line = f":{file.text.count(chr(10), 0, int(position) - 1) + 1}" if position else ""
    return MigrationError(
        f"{file.name}{line}: {error.diag.message_primary or error}",
        sqlstate=error.sqlstate,
        detail=error.diag.message_detail or error.diag.context,
        hint=error.diag.message_hint,
    )
