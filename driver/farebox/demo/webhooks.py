"""The queue at work: webhooks store payments and answer at once, a worker makes the tickets."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from farebox import Farebox
from farebox.demo.catalogue import COMPANIES
from farebox.worker import Worker

_PATIENCE_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Webhooks:
    """What came of them; both times in seconds since the first was stored."""

    tickets: int
    stored_after: float
    settled_after: float


def send_webhooks(dsn: str, client: Farebox, count: int, seed: int) -> Webhooks:
    """Store `count` payments while a worker is at work, and wait for their tickets.

    The same `seed` gives the same payments, which have their tickets already then.
    """
    with _worker(dsn):
        began = time.monotonic()
        stored = client.enqueue_many(_payments(count, seed))
        stored_after = time.monotonic() - began
        outcomes = [each.result(_PATIENCE_SECONDS) for each in stored]
        return Webhooks(sum(o.ok for o in outcomes), stored_after, time.monotonic() - began)


def _payments(count: int, seed: int) -> list[dict[str, Any]]:
    routes = [
        (company.id, route)
        for company in COMPANIES
        if company.status == "active"
        for route in company.routes
        if route.status == "active"
    ]
    payments: list[dict[str, Any]] = []
    for number in range(count):
        company_id, route = routes[number % len(routes)]
        payments.append(
            {
                "company_id": str(company_id),
                "route_id": str(route.id),
                "passenger_phone": f"+23277{number % 10**6:06d}",
                "monime_transaction_id": f"pay-demo-{seed}-{number}",
                "monime_otp": f"{number % 10**6:06d}",
                "amount": route.fare,
            }
        )
    return payments


@contextmanager
def _worker(dsn: str) -> Generator[None]:
    """A worker on an event loop in a thread; for real work there is `farebox worker`."""
    loop = asyncio.new_event_loop()
    made: list[Worker] = []
    failed: list[BaseException] = []
    is_made = threading.Event()

    async def work() -> None:
        made.append(Worker(dsn))
        is_made.set()
        await made[0].run()

    def run() -> None:
        try:
            loop.run_until_complete(work())
        except BaseException as error:
            failed.append(error)
        finally:
            is_made.set()
            loop.close()

    thread = threading.Thread(target=run, name="farebox-worker")
    thread.start()
    is_made.wait()
    try:
        yield
    finally:
        if not loop.is_closed():
            loop.call_soon_threadsafe(made[0].stop)
        thread.join()
    if failed:
        raise failed[0]
