"""`farebox bench` on a private durable server of either version, gone at the end.

python -m tests.bench scenario pg15 create --batch 100 --floor
"""

import os
import sys
from collections.abc import Sequence

from farebox.cli.main import cli
from tests.bench.support import bench_database
from tests.support.servers import VERSIONS


def main(arguments: Sequence[str]) -> None:
    """The first argument is the server, the others are those of `farebox bench`."""
    server, *options = arguments or [""]
    if server not in VERSIONS:
        sys.exit(f"usage: python -m tests.bench scenario {{{'|'.join(VERSIONS)}}} SCENARIO [options]")
    with bench_database(server) as db:
        os.environ["FAREBOX_DSN"] = db.server.dsn("postgres")
        cli(["bench", *options], prog_name="farebox")
