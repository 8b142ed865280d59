"""`queue`: stored and then processed, beside the same payments given to `create_tickets` at once."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any, Final

from farebox.bench.contest import Connection, Contender, compete
from farebox.bench.creating import Load, Tell
from farebox.bench.payments import new_batches, open_companies, texts
from farebox.bench.place import Place, connect
from farebox.bench.report import Check, Report

_CREATE: Final = "select outcome, count(*) from farebox.create_tickets(%s) group by 1"
_ENQUEUE: Final = "select count(*) from farebox.enqueue_tickets(%s)"
_QUEUE: Final = "stored and processed"
_PROCESS: Final = "select taken, created from farebox.process_ticket_queue(%s)"


def queue(place: Place, load: Load, tell: Tell) -> Report:
    """`connections` producers and as many workers at the same time, until every request is a ticket."""
    load = load.whole()
    sellers = open_companies(place.dsn, 20)
    report = Report("queue", {**asdict(load), "duplicate_share": 0.0, "companies": len(sellers)})

    def make() -> list[str]:
        return texts(new_batches(sellers, load.rows, load.batch))

    with _Line(place.dsn, load) as line:
        contenders: list[Contender[Any]] = [
            Contender("create_tickets", make, _direct, load.rows, Counter(created=load.rows)),
            # All of a round is one piece of work, which producers and workers share out among them.
            Contender(
                _QUEUE,
                lambda: [make()],
                lambda _, work: line.run(work),
                load.rows,
                Counter(created=load.rows),
            ),
        ]
        tickets = compete(
            report, place.dsn, contenders, connections=load.connections, rounds=load.rounds, tell=tell
        )
    del report.latencies[f"a batch: {_QUEUE}"]
    report.verify(place.dsn, tickets=tickets)
    with connect(place.dsn) as conn:
        [(left, dead)] = conn.execute(
            "select farebox.queue_size(), (select count(*) from farebox.ticket_queue_dead)"
        ).fetchall()
    report.checks += [Check("left in the queue", 0, left), Check("dead requests", 0, dead)]
    return report


def _direct(conn: Connection, text: str) -> Counter[str]:
    return Counter(dict(conn.execute(_CREATE, [text]).fetchall()))


class _Line:
    """Producers and workers, with connections that stay open."""

    def __init__(self, dsn: str, load: Load) -> None:
        self._batch = load.batch
        self._count = load.connections
        self._connections = [connect(dsn) for _ in range(2 * load.connections)]
        self._threads = ThreadPoolExecutor(2 * load.connections, "farebox-bench-queue")
        self._is_stopped = False

    def __enter__(self) -> _Line:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_stopped = True
        self._threads.shutdown()
        for conn in self._connections:
            conn.close()

    def run(self, work: Sequence[str]) -> Counter[str]:
        """Store all of it and process it meanwhile; what came of it."""
        producing, working = self._connections[: self._count], self._connections[self._count :]
        are_stored = threading.Event()
        workers = [self._threads.submit(self._work, conn, are_stored) for conn in working]
        producers = [
            self._threads.submit(self._produce, conn, work[number :: self._count])
            for number, conn in enumerate(producing)
        ]
        try:
            for producer in producers:
                producer.result()
        finally:
            are_stored.set()
        return Counter(created=sum(worker.result() for worker in workers))

    def _produce(self, conn: Connection, work: Sequence[str]) -> None:
        for text in work:
            if self._is_stopped:
                return
            conn.execute(_ENQUEUE, [text])

    def _work(self, conn: Connection, are_stored: threading.Event) -> int:
        total = 0
        while not self._is_stopped:
            is_last = are_stored.is_set()
            [(taken, created)] = conn.execute(_PROCESS, [self._batch]).fetchall()
            total += created
            if not taken and is_last:
                break
        return total
