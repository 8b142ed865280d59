"""`burst` and `steady`: callers of the driver in one process, all at once or each when it is due."""

from __future__ import annotations

import asyncio
import gc
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from farebox import AsyncFarebox, FareboxError
from farebox.bench.growing import Grown
from farebox.bench.latency import Latencies
from farebox.bench.payments import Payment, Seller, new_batches, open_companies, payment_of
from farebox.bench.place import Place, connect, run_until_stopped
from farebox.bench.report import Check, Line, Report

Tell = Callable[[int], None]

_COMPANIES: Final = 10
_WINDOWS: Final = 6
_PATIENCE_SECONDS: Final = 300.0

_SIZE: Final = """
select pg_total_relation_size('farebox.tickets') + pg_total_relation_size('farebox.transactions')
"""
_DEAD: Final = """
select coalesce(sum(n_dead_tup), 0)::bigint from pg_stat_user_tables
where relid = any(array['farebox.tickets', 'farebox.transactions']::regclass[])
"""


@dataclass(frozen=True, slots=True)
class Client:
    """How the driver is set up: connections and elements a batch."""

    connections: int = 4
    batch: int = 100

    def open(self, dsn: str) -> AsyncFarebox:
        """A client of that database that waits as long as it takes."""
        return AsyncFarebox(
            dsn, connections=self.connections, max_batch=self.batch, timeout=_PATIENCE_SECONDS
        )


@dataclass(slots=True)
class _Answers:
    """What the callers were answered, and how long each waited."""

    latencies: Latencies = field(default_factory=Latencies)
    counts: Counter[str] = field(default_factory=Counter[str])

    async def of(self, client: AsyncFarebox, payment: Payment, due: float) -> float:
        """Call, wait and note both; the seconds since it was due."""
        try:
            outcome: str = (await client.create_ticket(payment)).outcome
        except FareboxError as error:
            outcome = type(error).__name__
        took = time.perf_counter() - due
        self.counts[outcome] += 1
        self.latencies.record(took)
        return took


# -- burst --------------------------------------------------------------------------------------------------


def burst(place: Place, client: Client, tell: Tell, *, callers: Sequence[int], rounds: int) -> Report:
    """So many callers at the same moment, `rounds` times each; every one waits for its own answer."""
    report = Report(
        "burst",
        {
            "callers": list(callers),
            "connections": client.connections,
            "batch": client.batch,
            "rounds": rounds,
            "duplicate_share": 0.0,
        },
    )
    sellers = open_companies(place.dsn, _COMPANIES)
    run_until_stopped(_burst(report, place.dsn, client, sellers, tell, callers, rounds))
    return report


async def _burst(
    report: Report,
    dsn: str,
    client: Client,
    sellers: Sequence[Seller],
    tell: Tell,
    callers: Sequence[int],
    rounds: int,
) -> None:
    rates: dict[int, list[float]] = {count: [] for count in callers}
    answers = {count: _Answers() for count in callers}
    warm = _Answers()
    began = time.perf_counter()
    async with client.open(dsn) as farebox:
        await _at_once(farebox, sellers, min(callers), warm)
        for number in range(rounds):
            for count in callers:
                tell(number)
                seconds = await _at_once(farebox, sellers, count, answers[count])
                rates[count].append(count / seconds)
                points = report.over_time.setdefault(f"{count:,} at once", [])
                points.append((time.perf_counter() - began, count / seconds))
    for count in callers:
        name = f"{count:,} at once"
        report.lines.append(Line(name, rates[count]))
        report.latencies[f"a call: {name}"] = answers[count].latencies
        report.facts[f"{name}: seconds until all were answered"] = [
            round(count / rate, 3) for rate in rates[count]
        ]
        _check(report, name, answers[count], count * rounds)
    report.verify(dsn, tickets=sum(a.counts["created"] for a in (warm, *answers.values())))


async def _at_once(farebox: AsyncFarebox, sellers: Sequence[Seller], count: int, answers: _Answers) -> float:
    [payments] = new_batches(sellers, count, count)
    await asyncio.sleep(0)  # until then the loop holds what the round before has answered
    gc.collect()
    due = time.perf_counter()
    took = await asyncio.gather(*(answers.of(farebox, payment, due) for payment in payments))
    return max(took)


def _check(report: Report, name: str, answers: _Answers, expected: int) -> None:
    report.checks.append(Check(f"{name}: created", expected, answers.counts["created"]))
    for other in sorted(answers.counts.keys() - {"created"}):
        report.checks.append(Check(f"{name}: {other}", 0, answers.counts[other]))


# -- steady -------------------------------------------------------------------------------------------------


def steady(
    place: Place, client: Client, tell: Tell, *, rate: float, seconds: float, filled: int = 0
) -> Report:
    """Single calls in an open loop: each is made when it is due, whether earlier ones are answered or not.

    The table has `filled` tickets when it begins.

    Latencies count from that moment, so that a stall is charged to every call it delays. They are told for
    the whole and for each sixth of the time: the last beside the first says whether it stays as fast.
    """
    report = Report(
        "steady",
        {
            "rate": rate,
            "seconds": seconds,
            "filled": filled,
            "connections": client.connections,
            "batch": client.batch,
            "duplicate_share": 0.0,
        },
    )
    grown = Grown(place, place.dsn)
    if filled:
        grown.fill(filled, client.connections)
    run = _Steady(place.dsn, client, grown.sellers, rate, seconds, filled, tell)
    run_until_stopped(run.run())
    run.fill_in(report)
    with connect(place.dsn) as conn:
        [(dead,)] = conn.execute(_DEAD).fetchall()
    report.facts["bytes a ticket, after a sixth and at the end"] = [
        run.size_after_sixth,
        run.bytes_a_ticket(),
    ]
    report.facts["dead rows of tickets and transactions"] = dead
    report.verify(place.dsn, tickets=run.tickets)
    return report


class _Steady:
    def __init__(
        self,
        dsn: str,
        client: Client,
        sellers: Sequence[Seller],
        rate: float,
        seconds: float,
        filled: int,
        tell: Tell,
    ) -> None:
        self._dsn = dsn
        self._client = client
        self._sellers = sellers
        self._rate = rate
        self._count = max(round(rate * seconds), 1)
        self._filled = filled
        self._tell = tell
        self.warm = _Answers()
        self.answers = _Answers()
        self.late = Latencies()
        self.parts = [Latencies() for _ in range(_WINDOWS)]
        self.answered: Counter[int] = Counter()
        self.waiting = 0
        self.backlog: list[int] = []
        self.took = 0.0
        self.size_after_sixth: int | None = None

    async def run(self) -> None:
        async with self._client.open(self._dsn) as farebox:
            await _at_once(farebox, self._sellers, 1_000, self.warm)
            gc.collect()
            start = time.perf_counter() + 0.05
            calls: set[asyncio.Task[None]] = set()
            payments = self._payments()
            looking: asyncio.Task[None] | None = None
            for number in range(self._count):
                due = start + number / self._rate
                if (early := due - time.perf_counter()) > 0:
                    await asyncio.sleep(early)
                elif number % 100 == 0:
                    await asyncio.sleep(0)  # However late it is: those that were answered go first.
                self.late.record(max(time.perf_counter() - due, 0))
                self.waiting += 1
                call = asyncio.create_task(self._call(farebox, next(payments), due, start, number))
                calls.add(call)
                call.add_done_callback(calls.discard)
                if number % max(round(self._rate), 1) == 0:
                    self.backlog.append(self.waiting)
                    self._tell(number)
                if number == self._count // _WINDOWS:
                    looking = asyncio.create_task(self._look_at_size())
            await asyncio.gather(*calls)
            self.took = time.perf_counter() - start
            if looking is not None:
                await looking

    def _payments(self) -> Iterator[Payment]:
        while True:
            for seller in self._sellers:
                yield payment_of(seller)

    async def _call(
        self, farebox: AsyncFarebox, payment: Payment, due: float, start: float, number: int
    ) -> None:
        took = await self.answers.of(farebox, payment, due)
        self.waiting -= 1
        self.parts[number * _WINDOWS // self._count].record(took)
        self.answered[int(due + took - start)] += 1

    async def _look_at_size(self) -> None:
        """Beside the calls, none of which waits for it."""
        self.size_after_sixth = await asyncio.to_thread(self.bytes_a_ticket)

    @property
    def tickets(self) -> int:
        """How many there are by now."""
        return self._filled + self.warm.counts["created"] + self.answers.counts["created"]

    def bytes_a_ticket(self) -> int:
        """What the two tables and their indexes take. No count(*): that would be a load of its own."""
        with connect(self._dsn) as conn:
            [(size,)] = conn.execute(_SIZE).fetchall()
        return int(size) // self.tickets

    def fill_in(self, report: Report) -> None:
        report.lines.append(Line(f"asked for {self._rate:g} a second", [self._count / self.took]))
        report.latencies["a call, since it was due"] = self.answers.latencies
        report.latencies["of which made late by the client"] = self.late
        for number, part in enumerate(self.parts, 1):
            report.latencies[f"a call in part {number} of {_WINDOWS}"] = part
        first, last = self.parts[0].percentile(99), self.parts[-1].percentile(99)
        report.facts["p99 of the last sixth over the first"] = round(last / first, 3) if first else None
        report.facts["calls waiting, each second: median, most, at the end"] = [
            sorted(self.backlog)[len(self.backlog) // 2],
            max(self.backlog),
            self.backlog[-1],
        ]
        # The last second is not a whole one.
        points = sorted(self.answered.items())[:-1]
        report.over_time["answered"] = [(second, count) for second, count in points]
        _check(report, "calls", self.answers, self._count)
