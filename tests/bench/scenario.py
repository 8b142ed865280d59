"""`farebox bench` on a private durable server of either version, gone at the end.

python -m tests.bench scenario pg15 create --batch 100 --floor
python -m tests.bench scenario pg15 shared_buffers=6GB growth --sizes 10000000
"""

import os
import sys
from collections.abc import Sequence

from farebox.cli.main import cli
from tests.bench.support import bench_database
from tests.support.servers import VERSIONS


def main(arguments: Sequence[str]) -> None:
    """The server, settings of its own if any, then the arguments of `farebox bench`."""
    server, *options = arguments or [""]
    if server not in VERSIONS:
        usage = f"{{{'|'.join(VERSIONS)}}} [SETTING=VALUE ...] SCENARIO [options]"
        sys.exit(f"usage: python -m tests.bench scenario {usage}")
    settings: dict[str, str | int] = {}
    while options and "=" in options[0]:
        name, _, value = options.pop(0).partition("=")
        settings[name] = value
    with bench_database(server, **settings) as db:
        os.environ["FAREBOX_DSN"] = db.server.dsn("postgres")
        cli(["bench", *options], prog_name="farebox")
