"""The driver's rates, all in one run on one server, each contender once a round and in turn; medians.

- ``single``: so many ``create_ticket`` at once in one process (shared batches)
- ``list``: ``create_tickets`` with the same number, in chunks as large as a batch, over as many connections
- ``ready``: the SQL function itself with ready-made JSON, batch by batch on as many plain psycopg connections
- ``seed``: select, insert, insert for each ticket, as many coroutines over a pool as large

``single`` and ``list`` are given dicts and validate them. The server shares the cores with them all.

    python -m tests.bench driver_throughput --callers 10000 --batch 100 --connections 4
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import resource
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg

from farebox import AsyncFarebox
from tests.bench.support import bench_database
from tests.driver.conftest import Shop, open_shop

Payments = list[dict[str, Any]]
Contender = Callable[[Payments], Awaitable[None]]

_SEED_SHARE = 10  # of the callers only a part: the seed's flow is slow


class Contest:
    """The contenders, each with connections of its own that stay open."""

    def __init__(self, shop: Shop, batch: int, connections: int) -> None:
        self.shop = shop
        self.batch = batch
        self.farebox = AsyncFarebox(shop.dsn, connections=connections, max_batch=batch, timeout=None)
        self.connections = connections
        self.plain: asyncio.Queue[psycopg.AsyncConnection[Any]] = asyncio.Queue()
        self.texts: list[str] = []
        self.cpu = 0.0

    async def __aenter__(self) -> Contest:
        for _ in range(self.connections):
            conn = await psycopg.AsyncConnection.connect(self.shop.dsn, autocommit=True)
            self.plain.put_nowait(conn)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.farebox.close()
        while not self.plain.empty():
            await self.plain.get_nowait().close()

    async def single(self, payments: Payments) -> None:
        outcomes = await asyncio.gather(*(self.farebox.create_ticket(payment) for payment in payments))
        assert all(outcome.outcome == "created" for outcome in outcomes)

    async def tasked(self, payments: Payments) -> None:
        async def call(payment: dict[str, Any]) -> str:
            return (await self.farebox.create_ticket(payment)).outcome

        outcomes = await asyncio.gather(*(call(payment) for payment in payments))
        assert set(outcomes) == {"created"}

    async def list(self, payments: Payments) -> None:
        result = await self.farebox.create_tickets(payments, chunk_size=self.batch)
        assert len(result.successful) == len(payments)

    async def ready(self, _: Payments) -> None:
        texts = iter(self.texts)

        async def work() -> None:
            conn = await self.plain.get()
            for text in texts:
                rows = await (
                    await conn.execute("select * from farebox.create_tickets(%s)", [text])
                ).fetchall()
                assert all(row[2] == "created" for row in rows)
            self.plain.put_nowait(conn)

        await asyncio.gather(*(work() for _ in range(self.connections)))

    async def seed(self, payments: Payments) -> None:
        async def create(payment: dict[str, Any]) -> None:
            conn = await self.plain.get()
            try:
                async with conn.transaction():
                    found = await conn.execute(
                        "select id from farebox.tickets where monime_transaction_id = %s",
                        [payment["monime_transaction_id"]],
                    )
                    assert await found.fetchone() is None
                    row = await (
                        await conn.execute(
                            "insert into farebox.tickets (company_id, route_id, passenger_phone,"
                            " monime_transaction_id, monime_otp, amount, commission_rate)"
                            " values (%(company_id)s, %(route_id)s, %(passenger_phone)s,"
                            " %(monime_transaction_id)s, %(monime_otp)s, %(amount)s, 0.05) returning id",
                            payment,
                        )
                    ).fetchone()
                    assert row is not None
                    await conn.execute(
                        "insert into farebox.transactions (ticket_id, company_id, amount, commission,"
                        " net_amount) values (%s, %s, %s, 250, 4750)",
                        [row[0], payment["company_id"], payment["amount"]],
                    )
            finally:
                self.plain.put_nowait(conn)

        await asyncio.gather(*(create(payment) for payment in payments))

    async def rate(self, contender: Contender, count: int, bursts: int = 1) -> float:
        """Tickets a second, over so many bursts in a row. Python's debts of the time before are paid."""
        rounds = [self.shop.payments(count) for _ in range(bursts)]
        self.texts = [
            json.dumps(payments[start : start + self.batch])
            for payments in rounds
            for start in range(0, count, self.batch)
        ]
        await asyncio.sleep(0)  # until then the loop holds what the round before has answered
        gc.collect()
        start, cpu = time.perf_counter(), time.process_time()
        for payments in rounds:
            await contender(payments)
        self.cpu = (time.process_time() - cpu) / (count * bursts) * 1e6
        return count * bursts / (time.perf_counter() - start)


async def run(shop: Shop, callers: int, batch: int, connections: int, rounds: int) -> None:
    async with Contest(shop, batch, connections) as contest:
        contenders: dict[str, Contender] = {
            "single": contest.single,
            "list": contest.list,
            "ready": contest.ready,
            "seed": contest.seed,
        }
        rates: dict[str, list[float]] = {name: [] for name in contenders}
        cpu: dict[str, list[float]] = {name: [] for name in contenders}
        for number in range(rounds + 1):
            for name, contender in contenders.items():
                count = callers // _SEED_SHARE if name == "seed" else callers
                measured = await contest.rate(contender, count)
                if number:  # the first round warms up
                    rates[name].append(measured)
                    cpu[name].append(contest.cpu)
        medians = {name: statistics.median(values) for name, values in rates.items()}
        for name, values in rates.items():
            shown = " ".join(f"{value:7.0f}" for value in values)
            spent = statistics.median(cpu[name])
            print(f"{name:>7} {medians[name]:8.0f}/s, {spent:4.1f} us of client CPU each   ({shown})")
        for one, other, goal in (("single", "list", 0.6), ("single", "seed", 8), ("list", "ready", 0.9)):
            ratios = [a / b for a, b in zip(rates[one], rates[other], strict=True)]
            print(
                f"{one} / {other}: {medians[one] / medians[other]:.2f} of medians,"
                f" {statistics.median(ratios):.2f} median of rounds (goal {goal})"
            )


async def run_many(shop: Shop, callers: int, batch: int, connections: int, rounds: int) -> None:
    """Five times as many at once beside the same number, in turn; what each further caller costs.

    Beside one burst of the smaller number, and beside five in a row. One of 10,000 may end before Python
    looks through all objects for cycles, which it does by the number that were made: whoever makes five
    times as many pays for that, at once or in a row.
    """
    async with Contest(shop, batch, connections) as contest:
        kinds: dict[str, Contender] = {
            "calls": contest.single,
            "calls, after gc.freeze()": contest.single,
            "each in a task of its own": contest.tasked,
        }
        for contender in kinds.values():
            await contest.rate(contender, callers)
        ratios: dict[str, list[tuple[float, float]]] = {how: [] for how in kinds}
        cpu: dict[str, list[tuple[float, float, float]]] = {how: [] for how in kinds}
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        grown = 0
        for number in range(rounds):
            for how, contender in kinds.items():
                if "freeze" in how:
                    gc.freeze()
                rates: list[float] = []
                spent: list[float] = []
                sizes = [(callers, 1), (callers * 5, 1), (callers, 5)]
                for count, bursts in sizes if number % 2 else reversed(sizes):
                    rates.append(await contest.rate(contender, count, bursts))
                    spent.append(contest.cpu)
                    if count > callers and not grown:
                        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
                if not number % 2:
                    rates.reverse()
                    spent.reverse()
                gc.unfreeze()
                few, many, in_a_row = rates
                ratios[how].append((many / few, many / in_a_row))
                cpu[how].append((spent[0], spent[1], spent[2]))
                print(
                    f"{how}: {many:.0f}/s at once, {few:.0f}/s a fifth, {in_a_row:.0f}/s five fifths in a row"
                )
    for how, measured in ratios.items():
        for beside, values in zip(("once", "five times in a row"), zip(*measured, strict=True), strict=True):
            low, middle, high = statistics.quantiles(values, n=4)
            ratio = f"{middle:.2f} (quartiles {low:.2f} {high:.2f}, goal 1)"
            print(f"{callers * 5} / {callers} {beside}, {how}: {ratio}")
        few, many, in_a_row = (statistics.median(spent) for spent in zip(*cpu[how], strict=True))
        print(f"  us of client CPU each: {many:.1f}, {few:.1f} once, {in_a_row:.1f} five times in a row")
    print(
        f"the process grew by {grown / 1024:.0f} MB, {grown * 1024 / (callers * 4):.0f} bytes for each"
        " further caller, its payment and outcome included"
    )


def main(arguments: list[str]) -> None:
    """Prints rates, medians and ratios."""
    parser = argparse.ArgumentParser(prog="driver_throughput")
    parser.add_argument("--server", default="pg15")
    parser.add_argument("--callers", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--what", default="rates,many")
    options = parser.parse_args(arguments)
    with bench_database(options.server) as db:
        shop = open_shop(db)
        for what in options.what.split(","):
            measure = {"rates": run, "many": run_many}[what]
            asyncio.run(measure(shop, options.callers, options.batch, options.connections, options.rounds))
        db.close()
