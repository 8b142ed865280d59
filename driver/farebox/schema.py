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
LAYER_FOLDER = "router"
LAYERS = ("shard.sql", "router.sql")
"""What lies on top of that in a sharded installation (see :mod:`farebox.shards`), each with its manifest."""

_INCLUDE = re.compile(r"\\ir\s+(\S+)\s*")
_IGNORED = re.compile(r"\s*|--.*|\\set\s+ON_ERROR_STOP\s+\S+\s*|\\set\s+QUIET\s+\S+\s*")


@dataclass(frozen=True, slots=True)
class SqlFile:
    """One file of ``db/``: its path below that folder, with forward slashes, and its text."""

    name: str
    text: str


def manifest(folder: Path | None = None, name: str = MANIFEST) -> list[SqlFile]:
    """The files that ``farebox.sql`` (or the manifest ``name``) of that folder includes, in load order.

    The manifest is a psql script; only ``\\ir path``, comments and the settings of psql are understood, so
    that psql and this function cannot read it differently. Raises ConfigurationError for anything else, for
    a file that is missing, named twice or outside the folder, and when there is none.
    """
    root = (folder or db_dir()).resolve()
    names: list[str] = []
    for number, line in enumerate((root / name).read_text(encoding="utf-8").splitlines(), start=1):
        where = f"{root / name}:{number}"
        include = _INCLUDE.fullmatch(line)
        if include is None:
            if _IGNORED.fullmatch(line) is None:
                raise ConfigurationError(f"{where}: only \\ir lines and comments are allowed here: {line!r}")
            continue
        file = include.group(1)
        if file in names:
            raise ConfigurationError(f"{where}: {file} is included twice")
        if not (root / file).is_file() or not (root / file).resolve().is_relative_to(root):
            raise ConfigurationError(f"{where}: no file {file} below {root}")
        names.append(file)
    if not names:
        raise ConfigurationError(f"{root / name} includes no file")
    return [SqlFile(file, (root / file).read_text(encoding="utf-8")) for file in names]


def forgotten(folder: Path | None = None) -> list[str]:
    """SQL files of ``db/`` that no manifest includes: being written, or forgotten."""
    root = (folder or db_dir()).resolve()
    present = {path.relative_to(root).as_posix() for path in root.rglob("*.sql")}
    present -= {MANIFEST} | {file.name for file in manifest(root)}
    for layer in LAYERS if (root / LAYER_FOLDER).is_dir() else ():
        files = manifest(root / LAYER_FOLDER, layer)
        present -= {f"{LAYER_FOLDER}/{name}" for name in (layer, *(file.name for file in files))}
    return sorted(present)


def load_layer(conn: psycopg.Connection[Any], name: str) -> None:
    """Creates what one of `LAYERS` has, or replaces what is there by it; all or nothing.

    Raises MigrationError that names the file and the line the server complained about.
    """
    _load(conn, manifest(db_dir() / LAYER_FOLDER, name))


def load_schema(conn: psycopg.Connection[Any], folder: Path | None = None) -> None:
    """Creates everything of ``db/`` in the database of ``conn``, in one transaction (all or nothing).

    Raises MigrationError that names the file and the line the server complained about.
    """
    _load(conn, manifest(folder))


def _load(conn: psycopg.Connection[Any], files: list[SqlFile]) -> None:
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
