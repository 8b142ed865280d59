"""Where the SQL that ships with Farebox lies on disk.

A wheel carries ``db/`` and ``migrations/`` inside the package (``farebox/_sql``). An editable install has
only the sources, so there the same folders are looked up in the checkout. Nothing is ever taken from the
working directory: which SQL runs must not depend on where a command was started.
"""

from pathlib import Path

from farebox.errors import ConfigurationError

_PACKAGE = Path(__file__).resolve().parent


def _folder(name: str, must_contain: str) -> Path:
    """The folder ``name``; raises ConfigurationError when it is absent or holds no ``must_contain`` file."""
    shipped = _PACKAGE / "_sql" / name
    checkout = _PACKAGE.parents[1] / name
    for folder in (shipped, checkout):
        if any(folder.glob(must_contain)):
            return folder
    raise ConfigurationError(
        f"this installation of Farebox lacks its SQL: no {must_contain} in {shipped} or {checkout}",
        hint="Install the wheel again, or work in a complete checkout of the repository.",
    )


def db_dir() -> Path:
    """The folder ``db``: the manifest ``farebox.sql`` and the SQL files it names.

    Raises ConfigurationError when the installation lacks it.
    """
    return _folder("db", "farebox.sql")


def migrations_dir() -> Path:
    """The folder ``migrations``: the frozen SQL that yoyo applies.

    Raises ConfigurationError when the installation lacks it: yoyo itself would take an empty folder for a
    database that needs nothing.
    """
    return _folder("migrations", "[0-9]*.sql")
