"""Rates of the queue, each beside what it is measured against, in one run on one durable server.

    python -m tests.bench queue_rate --server pg18 --what direct,snapshot,producers,backlog,fairness

``direct``     stored and then processed, against the same payments given to ``create_tickets`` at once
``snapshot``   the same while another session holds an old snapshot, in turn with a database without one
``producers``  64 producers of single requests and a worker process, with notifications and without
``backlog``    a million waiting, drained: the rate in each tenth, and processor time
``fairness``   a company has 100,000 waiting: how long another one's single request takes
"""

import argparse
import contextlib
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import psycopg

from farebox.bench.payments import Seller, new_batches, open_companies, texts
from tests.bench.support import bench_database
from tests.support.database import Database

_ENQUEUE = "select count(*) from farebox.enqueue_tickets(%s)"
_CREATE = "select count(*) from farebox.create_tickets(%s)"
_PROCESS = "select taken from farebox.process_ticket_queue(%s)"


Sellers = Sequence[Seller]


def batches(sellers: Sellers, count: int, size: int) -> list[str]:
    """So many new payments in batches, as text."""
    return texts(new_batches(sellers, count, size))


def send(dsn: str, statement: str, payloads: Sequence[str]) -> None:
    """One statement for each payload."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        for payload in payloads:
            conn.execute(statement.encode(), [payload])


def drain(dsn: str, limit: int, until: Any = None, statement: str = _PROCESS) -> None:
    """Processes until nothing is left, and ``until`` is set if it is given."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        while True:
            ended = until is None or until.is_set()
            [[taken]] = conn.execute(statement.encode(), [limit])
            if taken == 0 and ended:
                return


def together(*jobs: tuple[Callable[..., None], tuple[Any, ...]]) -> float:
    """Runs each in a process of its own; the seconds until all have ended."""
    processes = [_FORK.Process(target=target, args=args) for target, args in jobs]
    began = time.monotonic()
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        if process.exitcode:
            raise SystemExit("a process failed")
    return time.monotonic() - began


_FORK = multiprocessing.get_context("fork")


def _direct(db: Database, sellers: Sellers, count: int, size: int) -> float:
    payloads = batches(sellers, count, size)
    half = len(payloads) // 2
    return count / together(
        (send, (db.dsn, _CREATE, payloads[:half])), (send, (db.dsn, _CREATE, payloads[half:]))
    )


def _stored_and_processed(db: Database, sellers: Sellers, count: int, size: int) -> float:
    """Two producers and two workers at the same time, until all are tickets."""
    payloads = batches(sellers, count, size)
    half = len(payloads) // 2
    stored = _FORK.Event()

    def produce() -> None:
        together((send, (db.dsn, _ENQUEUE, payloads[:half])), (send, (db.dsn, _ENQUEUE, payloads[half:])))
        stored.set()

    return count / together((produce, ()), (drain, (db.dsn, size, stored)), (drain, (db.dsn, size, stored)))


def direct(db: Database, sellers: Sellers, args: argparse.Namespace) -> None:
    """End to end against create_tickets."""
    for size in (100, 500):
        rates: dict[str, list[float]] = {"direct": [], "queue": []}
        for _ in range(args.rounds):
            rates["direct"].append(_direct(db, sellers, args.count, size))
            rates["queue"].append(_stored_and_processed(db, sellers, args.count, size))
        one, other = (statistics.median(rates[name]) for name in ("direct", "queue"))
        print(f"batch {size}: direct {one:,.0f}/s, stored and processed {other:,.0f}/s: {other / one:.2f}")


def snapshot(db: Database, sellers: Sellers, args: argparse.Namespace) -> None:
    """Stored and processed, for --seconds, in turn in two databases: one has an old snapshot held.

    A snapshot keeps dead rows only in its own database. Both grow alike, and whatever else slows the machine
    down slows down both.
    """
    db.server.create_database("beside")
    beside = Database(db.server, "beside")
    other = open_companies(beside.dsn, len(sellers))
    with psycopg.connect(db.dsn) as old:
        old.execute("set transaction isolation level repeatable read")
        old.execute("select count(*) from farebox.companies")
        began = time.monotonic()
        rates: list[tuple[float, float]] = []
        while time.monotonic() - began < args.seconds:
            held = _stored_and_processed(db, sellers, args.count, 100)
            rates.append((held, _stored_and_processed(beside, other, args.count, 100)))
        [(dead, size)] = db.execute(
            "select dead_tuples, pg_total_relation_size('farebox.ticket_queue') >> 20"
            " from farebox.queue_metrics()"
        )
    third = len(rates) // 3 or 1
    for name, part in (("in all", rates), ("first third", rates[:third]), ("last third", rates[-third:])):
        one, normal = (statistics.median(rate[i] for rate in part) for i in (0, 1))
        ratio = statistics.median(rate[0] / rate[1] for rate in part)
        print(f"snapshot held, {name}: {one:,.0f}/s, without {normal:,.0f}/s: {ratio:.2f}")
    print(f"held for {args.seconds:.0f} s: {dead:,} dead rows, {size} MB")
    beside.close()


def _one_by_one(dsn: str, payloads: Sequence[str], begin: Any) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        begin.wait()
        for payload in payloads:
            conn.execute(_ENQUEUE, [payload])


@contextlib.contextmanager
def worker_process(dsn: str, *options: str) -> Generator[None]:
    """`farebox worker` until the end."""
    worker = subprocess.Popen(
        [sys.executable, "-c", "from farebox.cli.main import main; main()", "worker", *options],
        env=os.environ | {"FAREBOX_DSN": dsn},
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        worker.terminate()
        worker.wait()


def _until_empty(db: Database) -> None:
    while db.value("select farebox.queue_size()"):
        time.sleep(0.1)


def _produce(db: Database, sellers: Sellers, count: int) -> float:
    payloads = batches(sellers, count, 1)
    begin = _FORK.Barrier(65)
    producers = [
        _FORK.Process(target=_one_by_one, args=(db.dsn, payloads[number::64], begin)) for number in range(64)
    ]
    for process in producers:
        process.start()
    begin.wait()
    began = time.monotonic()
    for process in producers:
        process.join()
    seconds = time.monotonic() - began
    _until_empty(db)
    return count / seconds


def producers(db: Database, sellers: Sellers, args: argparse.Namespace) -> None:
    """64 producers and a worker process, with notifications and without, in turn."""
    source = db.value("select pg_get_functiondef('farebox._wake_workers'::regproc)")
    rates: dict[bool, list[float]] = {True: [], False: []}
    with worker_process(db.dsn):
        send(db.dsn, _ENQUEUE, batches(sellers, 1_000, 1))  # past the careful start
        _until_empty(db)
        for number in range(args.rounds):
            # Who goes first changes: the tables grow.
            for notify in (True, False) if number % 2 else (False, True):
                if not notify:
                    db.execute(
                        "create or replace function farebox._wake_workers() returns void language sql"
                        " as $$ select $$"
                    )
                rates[notify].append(_produce(db, sellers, 12_800))
                db.execute(source)
    on, off = statistics.median(rates[True]), statistics.median(rates[False])
    ratio = statistics.median(one / other for one, other in zip(rates[True], rates[False], strict=True))
    print(f"64 producers: notifications on {on:,.0f}/s, off {off:,.0f}/s: {ratio:.2f}")
    print(f"  on {_listed(rates[True])}, off {_listed(rates[False])}")


def _listed(rates: Sequence[float]) -> str:
    return " ".join(f"{rate:,.0f}" for rate in rates)


def _cpu_seconds(db: Database) -> float:
    """What the sessions that process have used of the processors, whoever else uses them too."""
    ticks = 0
    for (pid,) in db.execute(
        "select pid from pg_stat_activity where query like '%%process_ticket_queue(%%'", []
    ):
        with contextlib.suppress(FileNotFoundError):
            ticks += sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def backlog(db: Database, sellers: Sellers, args: argparse.Namespace) -> None:
    """A million waiting, drained by two workers; in each tenth the rate and what it costs the processors."""
    for _ in range(args.backlog // 100_000):
        payloads = batches(sellers, 100_000, 1_000)
        together((send, (db.dsn, _ENQUEUE, payloads[:50])), (send, (db.dsn, _ENQUEUE, payloads[50:])))
    workers = [_FORK.Process(target=drain, args=(db.dsn, 100)) for _ in range(2)]
    began, left, used = time.monotonic(), args.backlog, 0.0
    for worker in workers:
        worker.start()
    rates: list[str] = []
    costs: list[str] = []
    for tenth in range(1, 10):  # at the end of the last one they are gone
        target = args.backlog * (10 - tenth) // 10
        while (now_left := db.value("select farebox.queue_size()")) > target:
            time.sleep(0.2)
        now, now_used = time.monotonic(), _cpu_seconds(db)
        rates.append(f"{(left - now_left) / (now - began):,.0f}")
        costs.append(f"{(now_used - used) * 1e6 / (left - now_left):,.0f}")
        began, left, used = now, now_left, now_used
    for worker in workers:
        worker.join()
    print(f"backlog of {args.backlog:,}, the first nine tenths: {' '.join(rates)} /s")
    print(f"  processor time of the two sessions: {' '.join(costs)} us a request")


def fairness(db: Database, sellers: Sellers, args: argparse.Namespace) -> None:
    """Single requests of another company while two workers drain a backlog of 100,000."""
    big, small = sellers[:1], sellers[1:]
    payloads = batches(big, 100_000, 1_000)
    send(db.dsn, _ENQUEUE, payloads)
    workers = [_FORK.Process(target=drain, args=(db.dsn, 100)) for _ in range(2)]
    for worker in workers:
        worker.start()
    times: list[float] = []
    while db.value("select farebox.queue_size()") > 20_000:
        began = time.monotonic()
        [[queue_id]] = db.execute("select queue_id from farebox.enqueue_tickets(%s)", batches(small, 1, 1))
        while db.execute("select from farebox.ticket_queue where id = %s", [queue_id]):
            time.sleep(0.001)
        times.append((time.monotonic() - began) * 1e3)
    for worker in workers:
        worker.join()
    times.sort()
    print(
        f"{len(times)} single requests beside a backlog of 100,000: median {statistics.median(times):.0f} ms,"
        f" worst {times[-1]:.0f} ms"
    )


def main(arguments: Sequence[str]) -> None:
    """Command line."""
    kinds = {f.__name__: f for f in (direct, snapshot, producers, backlog, fairness)}
    parser = argparse.ArgumentParser(prog="python -m tests.bench queue_rate", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--server", default="pg18")
    parser.add_argument("--what", default=",".join(kinds))
    parser.add_argument("--count", type=int, default=40_000, help="payments in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=180.0, help="how long the snapshot is held")
    parser.add_argument("--backlog", type=int, default=1_000_000)
    args = parser.parse_args(arguments)
    for what in args.what.split(","):
        with bench_database(args.server, max_connections=150) as db:
            sellers = open_companies(db.dsn, 20)
            print(f"{args.server}, load {os.getloadavg()[0]:.1f}, {what}")
            kinds[what](db, sellers, args)
            db.close()
