"""A database to measure in: a server of its own on the disk, durable, with settings fit for the load."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Generator

from tests.support.database import Database
from tests.support.servers import Farm

SETTINGS: dict[str, str | int] = {
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "30min",
    "autovacuum": "on",
    "statement_timeout": "0",
}


# What the two can do: pglz, which both have, is slower than none (see RESULTS.md).
_COMPRESSION = {"pg15": "lz4", "pg18": "off"}


@contextlib.contextmanager
def bench_database(name: str, **settings: str | int) -> Generator[Database]:
    """A database with the schema on a private server of that version; gone at the end.

    fsync, full_page_writes and synchronous_commit stay on. Set TMPDIR to choose the disk.
    """
    os.environ.setdefault(
        "TMPDIR", tempfile.gettempdir()
    )  # never in memory: a commit must cost what it costs
    farm = Farm(Farm.make_root())
    try:
        with farm.private(name, **(SETTINGS | {"wal_compression": _COMPRESSION[name]} | settings)) as server:
            server.create_database("bench")
            yield Database(server, "bench")
    finally:
        shutil.rmtree(farm.root)
