"""The files of ``migrations/``: what belongs together, what is released, what was edited.

A migration is ``NNNN.verb-object.sql`` with its ``NNNN.verb-object.rollback.sql``. ``SHA256SUMS`` lists the
files that are released, in the format of ``sha256sum``; they never change again.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from farebox._files import migrations_dir
from farebox.errors import MigrationError

SCHEMA: Final = "farebox_migrations"
"""The schema of yoyo's tables."""

SUMS = "SHA256SUMS"
ROLLBACK_SUFFIX = ".rollback.sql"

_NAME = re.compile(r"\d{4}\.[a-z0-9]+(-[a-z0-9]+)+")


@dataclass(frozen=True, slots=True)
class MigrationFile:
    """One migration: its id (the file name without ``.sql``), files, whether a released one was edited."""

    id: str
    up: Path
    down: Path | None
    edited: bool

    @property
    def sha256(self) -> str:
        """The checksum of the file as it is now."""
        return checksum(self.up.read_bytes())


def checksum(text: str | bytes) -> str:
    """The SHA-256 of a migration's text, in hexadecimal, as ``sha256sum`` prints it."""
    return hashlib.sha256(text if isinstance(text, bytes) else text.encode()).hexdigest()


def released_sums(folder: Path) -> dict[str, str]:
    """Checksum by file name of everything that is released; empty before the first release."""
    path = folder / SUMS
    if not path.exists():
        return {}
    lines = (line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    return {name.lstrip("*"): digest for digest, name in lines}


def read_files(folder: Path | None = None) -> list[MigrationFile]:
    """All migrations, in the order of their numbers.

    Raises MigrationError for a folder without migrations, a name that does not fit, a number used twice, a
    rollback without its migration and a released file that is gone. That a rollback is missing or a file was
    edited is left to the caller: status shows it, migrate refuses.
    """
    root = folder or migrations_dir()
    sums = released_sums(root)
    texts = {path.name: path for path in sorted(root.glob("*.sql"))}
    ups = {
        name.removesuffix(".sql"): path for name, path in texts.items() if not name.endswith(ROLLBACK_SUFFIX)
    }
    downs = {
        name.removesuffix(ROLLBACK_SUFFIX): texts[name] for name in texts if name.endswith(ROLLBACK_SUFFIX)
    }
    numbers = [name[:4] for name in ups]
    if not ups:
        raise MigrationError(f"no migrations in {root}")
    if odd := [name for name in ups if _NAME.fullmatch(name) is None]:
        raise MigrationError(f"not named NNNN.verb-object.sql: {', '.join(odd)} in {root}")
    if twice := {number for number in numbers if numbers.count(number) > 1}:
        raise MigrationError(f"more than one migration has the number {', '.join(sorted(twice))} in {root}")
    if orphans := sorted(downs.keys() - ups.keys()):
        raise MigrationError(f"rollback without a migration: {', '.join(orphans)} in {root}")
    if gone := sorted(sums.keys() - texts.keys()):
        raise MigrationError(f"released and listed in {SUMS}, but missing: {', '.join(gone)} in {root}")

    def edited(path: Path | None) -> bool:
        return path is not None and path.name in sums and sums[path.name] != checksum(path.read_bytes())

    return [
        MigrationFile(id=name, up=path, down=downs.get(name), edited=edited(path) or edited(downs.get(name)))
        for name, path in ups.items()
    ]
