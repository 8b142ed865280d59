"""What watching costs: the rate of ``create_tickets`` while ``farebox metrics --serve`` is scraped.

Connections sell without a pause; the time is cut into slices of a second, each without a scrape, with one, or
with one after the other (which is what makes a small cost visible above the noise of a machine), in an order
that changes. The exporter is a process of its own, as in production, and reads every group.

    python -m tests.bench metrics_cost --server pg15
"""

import argparse
import bisect
import json
import random
import statistics
import threading
import time
import urllib.request
from typing import Final

from farebox.bench.payments import new_batches, open_companies, texts
from tests.bench.support import bench_database
from tests.cli.commands import start
from tests.support.database import Database

_BATCH: Final = 100
_MODES: Final = ("without", "every 1 s", "all the time")


class Sellers:
    """Connections that sell until they are stopped; `sold` holds the moment of each batch, per connection."""

    def __init__(self, db: Database, templates: list[str], connections: int) -> None:
        self._db = db
        self._templates = templates
        self._stop = threading.Event()
        self.sold: list[list[float]] = [[] for _ in range(connections)]
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(connections)]

    def _run(self, number: int) -> None:
        sold = self.sold[number]
        with self._db.connect(autocommit=True) as conn, conn.cursor() as cur:
            while not self._stop.is_set():
                template = self._templates[len(sold) % len(self._templates)]
                # New ids by replacing a mark: building JSON would measure the client.
                batch = template.replace("pay-", f"pay-{number}-{len(sold)}-")
                cur.execute("select * from farebox.create_tickets(%s)", (batch,))
                cur.fetchall()
                sold.append(time.perf_counter())

    def __enter__(self) -> "Sellers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def rate(self, began: float, ended: float) -> float:
        """Tickets a second in that time."""
        batches = sum(bisect.bisect(sold, ended) - bisect.bisect(sold, began) for sold in self.sold)
        return batches * _BATCH / (ended - began)


def scrape(url: str) -> float:
    """Seconds that one took."""
    began = time.perf_counter()
    with urllib.request.urlopen(url, timeout=60) as answer:
        assert b"farebox_queue_size" in answer.read()
    return time.perf_counter() - began


def main(argv: list[str]) -> None:
    """Runs the comparison and prints it."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench metrics_cost")
    parser.add_argument("--server", default="pg15", choices=["pg15", "pg18"])
    parser.add_argument("--connections", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=30, help="each of one slice of every kind")
    args = parser.parse_args(argv)
    slices: list[tuple[str, float, float]] = []
    scrapes: dict[str, list[float]] = {mode: [] for mode in _MODES}

    with bench_database(args.server) as db:
        templates = texts(new_batches(open_companies(db.dsn, 10), 50 * _BATCH, _BATCH, coded=0.5))
        exporter = start("metrics", "--serve", "127.0.0.1:0", "--json", dsn=db.dsn)
        try:
            assert exporter.stdout is not None
            url = json.loads(exporter.stdout.readline())["serving"]
            with Sellers(db, templates, args.connections) as sellers:
                time.sleep(5)  # caches fill
                for _ in range(args.rounds):
                    for mode in random.sample(_MODES, len(_MODES)):
                        began = time.perf_counter()
                        if mode == "every 1 s":
                            scrapes[mode].append(scrape(url))
                        while mode == "all the time" and time.perf_counter() < began + 1:
                            scrapes[mode].append(scrape(url))
                        time.sleep(max(began + 1 - time.perf_counter(), 0))
                        slices.append((mode, began, time.perf_counter()))
        finally:
            exporter.terminate()
            exporter.communicate()
        tickets = db.value("select count(*) from farebox.tickets")
        db.close()

    rates = {mode: [sellers.rate(a, b) for name, a, b in slices if name == mode] for mode in _MODES}
    print(
        f"{args.server}, {args.connections} connections, batches of {_BATCH}, {args.rounds} slices of 1 s of"
        f" each kind, {tickets:,} tickets at the end"
    )
    without = statistics.median(rates["without"])
    for mode, values in rates.items():
        quarters = statistics.quantiles(values)
        spread = f"quartiles {quarters[0]:,.0f} to {quarters[2]:,.0f}"
        ratio = statistics.median(values) / without
        print(f"  {mode:12} {statistics.median(values):8,.0f}/s  ({spread})   x without {ratio:.3f}")
        if scrapes[mode]:
            took = statistics.median(scrapes[mode]) * 1e3
            a_second = len(scrapes[mode]) / args.rounds
            each = (1 - ratio) / a_second
            print(
                f"  {'':12} {a_second:.1f} scrapes a second, {took:.0f} ms each; so one a second leaves"
                f" {1 - each:.4f}, one in 5 s {1 - each / 5:.4f}"
            )
