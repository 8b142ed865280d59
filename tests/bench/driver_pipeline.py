"""One connection over a slow network: pipelining beside waiting for each answer, through a delaying proxy.

python -m tests.bench driver_pipeline --delay-ms 5
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time

from farebox import AsyncFarebox
from tests.bench.delay import delayed
from tests.bench.support import bench_database
from tests.driver.conftest import Shop, open_shop


async def run(shop: Shop, dsn: str, tickets: int, batch: int, depth: int, rounds: int) -> None:
    rates: dict[int, list[float]] = {1: [], depth: []}
    singles: dict[int, list[float]] = {1: [], depth: []}
    async with (
        AsyncFarebox(dsn, connections=1, pipeline=1, max_batch=batch) as waiting,
        AsyncFarebox(dsn, connections=1, pipeline=depth, max_batch=batch) as pipelining,
    ):
        for number in range(rounds + 1):
            for width, farebox in ((1, waiting), (depth, pipelining)):
                payments = shop.payments(tickets)
                start = time.perf_counter()
                result = await farebox.create_tickets(payments, chunk_size=batch)
                rate = tickets / (time.perf_counter() - start)
                assert len(result.successful) == tickets
                payments = shop.payments(tickets)
                start = time.perf_counter()
                await asyncio.gather(*(farebox.create_ticket(payment) for payment in payments))
                if number:
                    rates[width].append(rate)
                    singles[width].append(tickets / (time.perf_counter() - start))
    for what, measured in (("create_tickets", rates), ("create_ticket at once", singles)):
        medians = {width: statistics.median(values) for width, values in measured.items()}
        print(
            f"{what}, batches of {batch}: waiting {medians[1]:.0f}/s, {depth} in flight"
            f" {medians[depth]:.0f}/s: {medians[depth] / medians[1]:.2f} times (goal 3)"
        )


def main(arguments: list[str]) -> None:
    """Prints both rates and their ratio."""
    parser = argparse.ArgumentParser(prog="driver_pipeline")
    parser.add_argument("--server", default="pg15")
    parser.add_argument("--delay-ms", type=float, default=5, help="each way")
    parser.add_argument("--tickets", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    with bench_database(options.server) as db:
        shop = open_shop(db)
        with delayed(shop.dsn, options.delay_ms / 1000) as dsn:
            asyncio.run(run(shop, dsn, options.tickets, options.batch, options.depth, options.rounds))
        db.close()
