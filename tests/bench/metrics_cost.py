"""What watching costs the selling: the rate of ``create_tickets`` while ``farebox metrics --serve`` is scraped.

Each round sells for some seconds without a scrape, with one every five seconds and with one every second, in
turn and in an order that changes. The exporter is a process of its own, as in production, and asks for every
group. Printed are the medians, the ratios round by round, and how long one scrape takes.

    python -m tests.bench metrics_cost --server pg15
"""

import argparse
import json
import random
import statistics
import threading
import time
import urllib.request

from tests.bench.core import Catalog
from tests.bench.support import bench_database
from tests.cli.commands import start
from tests.support.database import Database

_BATCH = 100


class Scraper:
    """Scrapes at an interval from a thread of its own while the block runs; None: never."""

    def __init__(self, url: str, interval: float | None) -> None:
        self._url = url
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.seconds: list[float] = []

    def _run(self) -> None:
        # The first in the middle of its interval, so that a round holds as many as it is long.
        wait = (self._interval or 0) / 2
        while self._interval is not None and not self._stop.wait(wait):
            began = time.perf_counter()
            with urllib.request.urlopen(self._url, timeout=60) as answer:
                assert b"farebox_queue_size" in answer.read()
            self.seconds.append(time.perf_counter() - began)
            wait = max(self._interval - self.seconds[-1], 0)

    def __enter__(self) -> "Scraper":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def sell(db: Database, work: list[list[str]], seconds: float) -> float:
    """Tickets a second, with as many connections as there are lists of batches."""
    ends: list[tuple[int, float]] = []
    began = time.perf_counter()

    def one(batches: list[str]) -> None:
        done = 0
        with db.connect(autocommit=True) as conn, conn.cursor() as cur:
            for batch in batches:
                cur.execute("select * from farebox.create_tickets(%s)", (batch,))
                cur.fetchall()
                done += _BATCH
                if time.perf_counter() - began >= seconds:
                    break
        ends.append((done, time.perf_counter() - began))

    threads = [threading.Thread(target=one, args=(batches,)) for batches in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done / took for done, took in ends)


def main(argv: list[str]) -> None:
    """Runs the comparison and prints it."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench metrics_cost")
    parser.add_argument("--server", default="pg15", choices=["pg15", "pg18"])
    parser.add_argument("--connections", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=5)
    args = parser.parse_args(argv)
    modes: dict[str, float | None] = {"without": None, "every 5 s": 5.0, "every 1 s": 1.0}

    with bench_database(args.server) as db:
        with db.connect(autocommit=True) as conn:
            catalog = Catalog.make(conn, 10)

        def work(tickets: int) -> list[list[str]]:
            batches = tickets // _BATCH // args.connections
            return [
                [json.dumps(catalog.requests(_BATCH, coded=0.5)) for _ in range(batches)]
                for _ in range(args.connections)
            ]

        fastest = sell(db, work(100_000), args.seconds)
        exporter = start("metrics", "--serve", "127.0.0.1:0", "--json", dsn=db.dsn)
        rates: dict[str, list[float]] = {mode: [] for mode in modes}
        scrapes: list[float] = []
        try:
            assert exporter.stdout is not None
            url = json.loads(exporter.stdout.readline())["serving"]
            for _ in range(args.rounds):
                for mode in random.sample(list(modes), len(modes)):
                    todo = work(int(1.3 * fastest * args.seconds))
                    with Scraper(url, modes[mode]) as scraper:
                        rates[mode].append(sell(db, todo, args.seconds))
                    scrapes += scraper.seconds
                    fastest = max(fastest, rates[mode][-1])
        finally:
            exporter.terminate()
            exporter.communicate()
        tickets = db.value("select count(*) from farebox.tickets")
        db.close()
    print(
        f"{args.server}, {args.connections} connections, batches of {_BATCH}, {args.rounds} rounds of"
        f" {args.seconds:g} s, {tickets:,} tickets at the end"
    )
    for mode, values in rates.items():
        ratios = [value / base for value, base in zip(values, rates["without"], strict=True)]
        print(
            f"  {mode:10} {statistics.median(values):8,.0f}/s   x without: median of the rounds"
            f" {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}),"
            f" of the rates {statistics.median(values) / statistics.median(rates['without']):.3f}"
        )
    print(f"  a scrape took {statistics.median(scrapes) * 1e3:.0f} ms ({len(scrapes)} of them)")
