"""Queue designs beside the queue itself, for the comparison in ``db/README.md``."""

import argparse
import os
import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import psycopg

from farebox.bench.payments import open_companies
from tests.bench.queue_rate import Sellers, batches, drain, send, together
from tests.bench.support import bench_database
from tests.support.database import Database

_DESIGNS = {
    "row a request": ("farebox.enqueue_tickets", "select taken from farebox.process_ticket_queue(%s)", None),
    "row a batch": ("design.enqueue", "select design.process(%s)", "row_a_batch.sql"),
    "log with cursors": ("design.enqueue", "select design.process(%s)", "log.sql"),
}
_DEAD = (
    "select sum(n_dead_tup)::bigint, sum(pg_total_relation_size(relid))::bigint >> 20"
    " from pg_stat_all_tables where schemaname = 'design' or relid = 'farebox.ticket_queue'::regclass"
)


def _both(db: Database, design: str, payloads: list[str]) -> tuple[float, float]:
    """Seconds to store all, seconds to process all; two sessions each."""
    function, process, _ = _DESIGNS[design]
    statement = f"select count(*) from {function}(%s)"
    half = len(payloads) // 2
    stored = together(
        (send, (db.dsn, statement, payloads[:half])), (send, (db.dsn, statement, payloads[half:]))
    )
    return stored, together((drain, (db.dsn, 100, None, process)), (drain, (db.dsn, 100, None, process)))


def _compare(db: Database, sellers: Sellers, design: str, args: argparse.Namespace) -> None:
    def round_of(count: int, size: int) -> tuple[float, float]:
        payloads = batches(sellers, count, size)
        stored, processed = _both(db, design, payloads)
        return count / stored, count / processed

    normal = [round_of(args.count, 100) for _ in range(args.rounds)]
    singles = [round_of(args.count // 10, 1) for _ in range(args.rounds)]
    with psycopg.connect(db.dsn) as old:
        old.execute("set transaction isolation level repeatable read")
        old.execute("select count(*) from farebox.companies")
        began = time.monotonic()
        held: list[tuple[float, float]] = []
        while time.monotonic() - began < args.seconds:
            held.append(round_of(args.count, 100))
        [(dead, size)] = db.execute(_DEAD)

    def shown(rates: list[tuple[float, float]]) -> str:
        stored, processed = (statistics.median(rate[i] for rate in rates) for i in (0, 1))
        return f"stored {stored:,.0f}/s, processed {processed:,.0f}/s"

    last = statistics.median(rate[1] for rate in held[-3:]) / statistics.median(rate[1] for rate in normal)
    print(f"{design}:\n  batches of 100: {shown(normal)}\n  single requests: {shown(singles)}")
    print(
        f"  snapshot held for {args.seconds:.0f} s: {shown(held)}; processed at the end {last:.2f} of normal;"
        f" {dead:,} dead rows, {size} MB"
    )


def main(arguments: Sequence[str]) -> None:
    """``python -m tests.bench queue_designs --server pg18``."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench queue_designs", description=__doc__)
    parser.add_argument("--server", default="pg18")
    parser.add_argument("--count", type=int, default=40_000, help="requests in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=120.0, help="how long the snapshot is held")
    args = parser.parse_args(arguments)
    random.seed(1)
    for design, (_, _, script) in _DESIGNS.items():
        with bench_database(args.server) as db:
            sellers = open_companies(db.dsn, 20)
            with psycopg.connect(db.dsn, autocommit=True) as conn:
                if script is not None:
                    conn.execute((Path(__file__).parent / script).read_bytes())
            print(f"{args.server}, load {os.getloadavg()[0]:.1f}")
            _compare(db, sellers, design, args)
            db.close()
