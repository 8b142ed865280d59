"""What huge pages give when the table is large: one server, started with and without them by turns.

With small pages the processor looks up each of millions of addresses in a table that is in no cache
either; in a virtual machine it does so twice. Each turn warms the buffers, then measures `create_tickets` in
a database with many tickets and in an empty one, by turns. Pages are not logged whole after the restarts,
which would be most of what is measured (`full_page_writes = off`: for this comparison only).

    sysctl -w vm.nr_hugepages=3300
    python -m tests.bench huge_pages --tickets 10000000
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

from farebox.bench.contest import Contender, compete, creating
from farebox.bench.growing import Grown
from farebox.bench.payments import Seller, new_batches, open_companies, texts
from farebox.bench.place import Place, connect
from farebox.bench.report import Report
from tests.bench.support import bench_database
from tests.support.servers import VERSIONS

_WARM = (
    "select pg_prewarm(c.oid) from pg_class as c"
    " where c.relnamespace = 'farebox'::regnamespace and c.relkind in ('r', 'i')"
)
STATES = ("off", "on")


def reserved_bytes() -> int:
    """What the system holds ready in huge pages."""
    words = {line.split(":")[0]: line.split()[1] for line in Path("/proc/meminfo").read_text().splitlines()}
    return int(words["HugePages_Free"]) * int(words["Hugepagesize"]) * 1024


def contender(name: str, dsn: str, sellers: list[Seller], rows: int) -> Contender[str]:
    """New payments in batches of 100."""
    return creating(name, lambda: texts(new_batches(sellers, rows, 100)), rows, dsn=dsn)


def main(arguments: list[str]) -> None:
    """Parses the options and runs."""
    parser = argparse.ArgumentParser(prog="huge_pages", description=__doc__)
    parser.add_argument("--server", choices=VERSIONS, default="pg15")
    parser.add_argument("--shared-buffers", type=int, default=6, help="in GB")
    parser.add_argument("--tickets", type=int, default=10_000_000)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--rows", type=int, default=20_000, help="of each contender in each round")
    options = parser.parse_args(arguments)
    if reserved_bytes() < (options.shared_buffers << 30) * 1.04:
        pages = (options.shared_buffers << 30) * 1.05 // (2 << 20)
        sys.exit(f"too few huge pages are reserved; as root: sysctl -w vm.nr_hugepages={pages:.0f}")

    settings = {"full_page_writes": "off", "checkpoint_timeout": "1h", "max_wal_size": "64GB"}
    rates: dict[tuple[str, str], list[float]] = {}
    with (
        bench_database(options.server, shared_buffers=f"{options.shared_buffers}GB", **settings) as db,
        Place(db.server.dsn("postgres")) as place,
    ):
        grown = Grown(place, place.dsn)
        grown.fill(options.tickets, 2)
        with connect(grown.dsn) as conn:
            conn.execute("create extension pg_prewarm")
        for turn in range(2 * options.turns):
            state = STATES[turn % 2]
            with connect(grown.dsn) as conn:
                conn.execute(f"alter system set huge_pages = {state}")
            db.server.stop()
            db.server.start()
            with connect(grown.dsn) as conn:
                conn.execute(_WARM)
            empty = place.another()
            contenders = [
                contender("empty", empty, open_companies(empty, len(grown.sellers)), options.rows),
                contender("full", grown.dsn, grown.sellers, options.rows),
            ]
            compete(
                Report("huge_pages", {}),
                place.dsn,
                contenders,
                connections=2,
                rounds=options.rounds,
                tell=lambda _: None,
            )
            place.drop(empty)
            for one in contenders:
                rates.setdefault((state, one.name), []).extend(one.rates)
    print(
        f"{options.server}, {options.tickets:,} tickets, shared_buffers {options.shared_buffers} GB, a second"
    )
    for state in STATES:
        empty_rates, full_rates = rates[state, "empty"], rates[state, "full"]
        ratio = statistics.median(f / e for f, e in zip(full_rates, empty_rates, strict=True))
        print(
            f"  huge_pages {state:<3}  empty {statistics.median(empty_rates):,.0f}"
            f"  full {statistics.median(full_rates):,.0f}  full over empty {ratio:.2f}"
        )
