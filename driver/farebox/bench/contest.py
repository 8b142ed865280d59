"""Contenders by turns on one server: each round runs every one of them once, medians and ratios are told.

Work is made before it is timed, and given to plain connections as ready-made text, so that no client is
measured.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Self, TypeVar

import psycopg

from farebox.bench.latency import Latencies
from farebox.bench.place import connect
from farebox.bench.report import Check, Line, Report

T = TypeVar("T")
Connection = psycopg.Connection[tuple[Any, ...]]
Do = Callable[[Connection, T], Counter[str]]

_CREATE: Final = "select * from farebox.create_tickets(%s)"


class Crew:
    """Connections that share out a list of work among them, each in a thread of its own."""

    def __init__(self, dsn: str, connections: int) -> None:
        self._connections = [connect(dsn) for _ in range(connections)]
        self._threads = ThreadPoolExecutor(connections, "farebox-bench")
        self._is_stopped = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_stopped = True
        self._threads.shutdown()
        for conn in self._connections:
            conn.close()

    def run(self, work: Sequence[T], do: Do[T]) -> tuple[list[float], Counter[str]]:
        """Do each piece of work once; the seconds each took, and what all were answered."""
        pieces = iter(work)
        lock = threading.Lock()

        def labour(conn: Connection) -> tuple[list[float], Counter[str]]:
            took: list[float] = []
            outcomes = Counter[str]()
            while not self._is_stopped:
                with lock:
                    piece = next(pieces, None)
                if piece is None:
                    break
                began = time.perf_counter()
                outcomes += do(conn, piece)
                took.append(time.perf_counter() - began)
            return took, outcomes

        done = [
            running.result() for running in [self._threads.submit(labour, conn) for conn in self._connections]
        ]
        return [seconds for took, _ in done for seconds in took], sum((o for _, o in done), Counter[str]())


@dataclass(slots=True)
class Contender(Generic[T]):
    """One way to do the work.

    `make` gives new work for one round, which holds `rows` payments; `do` does a piece of it and gives how
    often each outcome was answered. `expected` is what a whole round must be answered.
    """

    name: str
    make: Callable[[], Sequence[T]]
    do: Do[T]
    rows: int
    expected: Counter[str] = field(default_factory=Counter[str])
    dsn: str | None = None
    outcomes: Counter[str] = field(default_factory=Counter[str])
    rates: list[float] = field(default_factory=list[float])
    times: list[float] = field(default_factory=list[float])
    latencies: Latencies = field(default_factory=Latencies)
    log_bytes: int = 0


def creating(
    name: str,
    make: Callable[[], Sequence[str]],
    rows: int,
    expected: Mapping[str, int] | None = None,
    *,
    dsn: str | None = None,
) -> Contender[str]:
    """A contender that calls `create_tickets`; a round is answered `expected` (default: all created)."""
    return Contender(name, make, _create, rows, Counter(expected or {"created": rows}), dsn)


def _create(conn: Connection, text: str) -> Counter[str]:
    """The answer is received whole and its outcomes counted; no objects are made of it."""
    result = conn.execute(_CREATE, [text]).pgresult
    assert result is not None
    return Counter(bytes(result.get_value(row, 2) or b"").decode() for row in range(result.ntuples))


def compete(
    report: Report,
    dsn: str,
    contenders: Sequence[Contender[Any]],
    *,
    connections: int,
    rounds: int,
    tell: Callable[[int], None],
) -> int:
    """Run so many rounds after one to warm up, fill in the report, and give the number of tickets created.

    The first contender is what the others are compared with, unless the report names another.
    """
    began = time.perf_counter()
    crews: dict[str, Crew] = {}
    watch = connect(dsn)
    try:
        for contender in contenders:
            where = contender.dsn or dsn
            if where not in crews:
                crews[where] = Crew(where, connections)
        for number in range(rounds + 1):
            tell(number)
            for contender in _in_turn(contenders, number):
                work = contender.make()
                crew = crews[contender.dsn or dsn]
                log = _logged(watch)
                start = time.perf_counter()
                took, outcomes = crew.run(work, contender.do)
                end = time.perf_counter()
                contender.outcomes += outcomes
                if number:
                    contender.rates.append(contender.rows / (end - start))
                    contender.times.append(end - began)
                    contender.log_bytes += _logged(watch) - log
                    for seconds in took:
                        contender.latencies.record(seconds)
    finally:
        for crew in crews.values():
            crew.__exit__()
        watch.close()
    report.base = report.base or contenders[0].name
    _fill_in(report, contenders, rounds + 1)
    return sum(contender.outcomes["created"] for contender in contenders)


def _logged(conn: Connection) -> int:
    """How much the server has written to its log, in bytes."""
    [(position,)] = conn.execute("select pg_current_wal_insert_lsn() - '0/0'").fetchall()
    return int(position)


def _in_turn(contenders: Sequence[Contender[Any]], number: int) -> list[Contender[Any]]:
    """Who goes first changes: tables grow, caches fill."""
    first = number % len(contenders)
    return [*contenders[first:], *contenders[:first]]


def _fill_in(report: Report, contenders: Sequence[Contender[Any]], times: int) -> None:
    by_name = {contender.name: contender for contender in contenders}
    base = by_name[report.base].rates
    for contender in contenders:
        report.lines.append(
            Line(contender.name, contender.rates, None if contender.name == report.base else base)
        )
        report.latencies[f"a batch: {contender.name}"] = contender.latencies
        report.facts[f"bytes of WAL for each payment, {contender.name}"] = round(
            contender.log_bytes / (contender.rows * (times - 1))
        )
        report.over_time[contender.name] = list(zip(contender.times, contender.rates, strict=True))
        for outcome in sorted(contender.expected | contender.outcomes):
            report.checks.append(
                Check(
                    f"{contender.name}: {outcome}",
                    contender.expected[outcome] * times,
                    contender.outcomes[outcome],
                )
            )
