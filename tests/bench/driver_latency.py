"""Latency of single calls in an open loop: calls start on schedule, whether earlier ones are answered or not.

Measured from the moment a call was due, so that a stall is charged to every call it delays. How late the
calls were made is told too: that part is the event loop's and the machine's.

    python -m tests.bench driver_latency --rate 1000 --seconds 20
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import time

from farebox import AsyncFarebox
from tests.bench.support import bench_database
from tests.driver.conftest import Shop, open_shop


async def run(shop: Shop, rate: int, seconds: int, connections: int) -> None:
    latencies: list[float] = []
    late: list[float] = []
    async with AsyncFarebox(shop.dsn, connections=connections) as farebox:
        warm = [farebox.create_ticket(payment) for payment in shop.payments(2000)]
        await asyncio.gather(*warm)
        payments = shop.payments(rate * seconds)
        gc.collect()

        async def call(payment: dict[str, object], due: float) -> None:
            outcome = await farebox.create_ticket(payment)
            latencies.append(time.perf_counter() - due)
            assert outcome.outcome == "created"

        start = time.perf_counter() + 0.1
        async with asyncio.TaskGroup() as calls:
            for number, payment in enumerate(payments):
                due = start + number / rate
                if (early := due - time.perf_counter()) > 0:
                    await asyncio.sleep(early)
                late.append(time.perf_counter() - due)
                calls.create_task(call(payment, due))
    print(f"{rate}/s for {seconds} s, {len(latencies)} calls: {shown(latencies)}")
    print(f"of which made late: {shown(late)}")


def shown(seconds: list[float]) -> str:
    """The percentiles, in milliseconds."""
    seconds.sort()
    figures = {f"p{share:g}": seconds[int(len(seconds) * share / 100)] for share in (50, 95, 99, 99.9)}
    figures["max"] = seconds[-1]
    return ", ".join(f"{name} {value * 1e3:.2f} ms" for name, value in figures.items())


def main(arguments: list[str]) -> None:
    """Prints p50, p95, p99, p99.9 and the maximum."""
    parser = argparse.ArgumentParser(prog="driver_latency")
    parser.add_argument("--server", default="pg15")
    parser.add_argument("--rate", type=int, default=1000)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--connections", type=int, default=4)
    options = parser.parse_args(arguments)
    with bench_database(options.server) as db:
        asyncio.run(run(open_shop(db), options.rate, options.seconds, options.connections))
        db.close()
