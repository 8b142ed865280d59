"""What the sessions of a server wait for, looked at five times a second until it is told to end.

`scenario --waits …` runs it beside a benchmark. What the system writes is told too: the server's disk is this
machine's.

    FAREBOX_DSN=postgresql://… python -m tests.bench waits
"""

from __future__ import annotations

import os
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import psycopg

_PERIOD = 0.2
_SESSIONS = """
select coalesce(wait_event_type || ':' || wait_event, 'at work'), count(*)
from pg_stat_activity
where backend_type = 'client backend' and state = 'active' and pid <> pg_backend_pid()
  and coalesce(wait_event, '') <> 'ClientRead'
group by 1
"""


def kernel() -> tuple[int, int]:
    """Bytes of changed pages that the system keeps, and bytes it has written since it runs."""
    words = (line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    counters = {name: int(value) for name, value in words}
    return counters["nr_dirty"] * os.sysconf("SC_PAGE_SIZE"), counters["pgpgout"] * 1024


def main(_: Sequence[str]) -> None:
    """Looks until SIGTERM or SIGINT, then tells."""
    ends = False

    def end(*_: object) -> None:
        nonlocal ends
        ends = True

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    found: Counter[str] = Counter()
    dirty: list[int] = []
    written: list[int] = []
    longest = 0.0
    with psycopg.connect(os.environ["FAREBOX_DSN"], autocommit=True) as conn:
        last_work = time.monotonic()
        last_second, last_written = last_work, kernel()[1]
        while not ends:
            now = time.monotonic()
            try:
                rows = conn.execute(_SESSIONS).fetchall()
            except psycopg.OperationalError:
                break  # the server has ended
            found.update(dict(rows))
            # All idle is no stall: nobody asked for anything.
            if not rows or "at work" in dict(rows):
                last_work = now
            longest = max(longest, now - last_work)
            if now - last_second >= 1:
                changed, total = kernel()
                dirty.append(changed)
                written.append(round((total - last_written) / (now - last_second)))
                last_second, last_written = now, total
            time.sleep(max(0, now + _PERIOD - time.monotonic()))
    waits = sum(count for name, count in found.items() if name != "at work")
    print(f"at work: {found['at work']:,} samples; waiting: {waits:,}, of them", file=sys.stderr)
    for name, count in found.most_common(12):
        if name != "at work":
            print(f"  {name:<28} {count:>9,} {count / waits:7.1%}", file=sys.stderr)
    print(f"longest time with none at work: {longest:.1f} s", file=sys.stderr)
    for what, values in (("changed pages kept, MB", dirty), ("written, MB a second", written)):
        if values:
            mean, most = statistics.mean(values) / 1e6, max(values) / 1e6
            print(f"{what}: mean {mean:,.0f}, most {most:,.0f}", file=sys.stderr)
