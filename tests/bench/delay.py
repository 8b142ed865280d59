"""A delaying proxy in a process of its own, so that it does not share the measured client's interpreter."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Generator
from urllib.parse import urlsplit, urlunsplit


@contextlib.contextmanager
def delayed(dsn: str, seconds: float) -> Generator[str]:
    """The same URI through a proxy that takes `seconds` each way."""
    program = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.delay", dsn, str(seconds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    try:
        parts = urlsplit(dsn)
        port = int(program.stdout.readline())
        yield urlunsplit(parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{port}"))
    finally:
        program.communicate()


if __name__ == "__main__":
    from tests.support.proxy import proxy_to

    with proxy_to(sys.argv[1], delay=float(sys.argv[2])) as proxy:
        print(proxy.port, flush=True)
        sys.stdin.read()
