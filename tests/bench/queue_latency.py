"""How long from the call of ``enqueue`` to the ticket, at a steady rate, with one worker process.

Requests arrive as a Poisson process and each is a call of its own, as from a webhook; the client shares
batches. The time counts from when the request should have been sent, so a stall is not hidden.

    python -m tests.bench queue_latency --server pg18 --rates 1000,5000 --seconds 20
"""

import argparse
import asyncio
import os
import random
import time
from collections.abc import Sequence

from farebox import AsyncFarebox
from farebox.bench.payments import Seller, open_companies, payment_of
from tests.bench.queue_rate import worker_process
from tests.bench.support import bench_database


async def _run(
    dsn: str, sellers: Sequence[Seller], rate: float, seconds: float
) -> tuple[list[float], list[float]]:
    """The milliseconds to the acknowledgement and to the ticket, of each request."""
    requests = [payment_of(random.choice(sellers)) for _ in range(int(rate * seconds))]
    stored: list[float] = []
    settled: list[float] = []

    async def one(farebox: AsyncFarebox, request: dict[str, object], due: float) -> None:
        ticket = await farebox.enqueue(request)
        stored.append(time.perf_counter() - due)
        outcome = await ticket.result(timeout=120)
        assert outcome.ok
        settled.append(time.perf_counter() - due)

    async with AsyncFarebox(dsn, timeout=120) as farebox:
        await one(farebox, payment_of(sellers[0]), time.perf_counter())
        stored.clear()
        settled.clear()
        due = time.perf_counter()
        calls: list[asyncio.Task[None]] = []
        for request in requests:
            due += random.expovariate(rate)
            if due > time.perf_counter():
                await asyncio.sleep(due - time.perf_counter())
            calls.append(asyncio.create_task(one(farebox, request, due)))
        await asyncio.gather(*calls)
    return [t * 1e3 for t in stored], [t * 1e3 for t in settled]


def _shown(name: str, times: list[float]) -> str:
    times.sort()
    shown = (f"p{p:g} {times[min(len(times) - 1, int(len(times) * p / 100))]:.1f}" for p in (50, 95, 99))
    return f"{name} {', '.join(shown)} ms"


def main(arguments: Sequence[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench queue_latency", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--server", default="pg18")
    parser.add_argument("--rates", default="1000,5000")
    parser.add_argument("--seconds", type=float, default=20.0)
    args = parser.parse_args(arguments)
    with bench_database(args.server) as db:
        sellers = open_companies(db.dsn, 20)
        with worker_process(db.dsn):
            asyncio.run(_run(db.dsn, sellers, 500, 2))  # past the careful start
            for rate in args.rates.split(","):
                stored, settled = asyncio.run(_run(db.dsn, sellers, float(rate), args.seconds))
                print(f"{args.server}, {rate}/s, load {os.getloadavg()[0]:.1f}:")
                print("  " + _shown("acknowledged after", stored))
                print("  " + _shown("ticket after", settled))
        db.close()
