"""`farebox bench` on a private durable server of either version, gone at the end.

python -m tests.bench scenario pg15 create --batch 100 --floor
python -m tests.bench scenario pg15 shared_buffers=6GB growth --sizes 10000000
python -m tests.bench scenario pg15 --waits steady --rate 5000 --duration 1h
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Generator, Sequence

from farebox.cli.main import cli
from tests.bench.support import bench_database
from tests.support.servers import VERSIONS


@contextlib.contextmanager
def watched() -> Generator[None]:
    """What sessions wait for is told at the end."""
    watch = subprocess.Popen([sys.executable, "-m", "tests.bench", "waits"])
    try:
        yield
    finally:
        watch.terminate()
        watch.wait()


def main(arguments: Sequence[str]) -> None:
    """The server, settings of its own if any, `--waits` if wanted, the arguments of `farebox bench`."""
    server, *options = arguments or [""]
    if server not in VERSIONS:
        usage = f"{{{'|'.join(VERSIONS)}}} [SETTING=VALUE ...] [--waits] SCENARIO [options]"
        sys.exit(f"usage: python -m tests.bench scenario {usage}")
    settings: dict[str, str | int] = {}
    while options and "=" in options[0]:
        name, _, value = options.pop(0).partition("=")
        settings[name] = value
    has_waits = options[:1] == ["--waits"]
    with bench_database(server, **settings) as db:
        os.environ["FAREBOX_DSN"] = db.server.dsn("postgres")
        with watched() if has_waits else contextlib.nullcontext():
            cli(["bench", *options[has_waits:]], prog_name="farebox")
