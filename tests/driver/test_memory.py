"""What a client keeps of its callers: as little as they need, and not for longer."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc

from farebox import AsyncFarebox
from farebox._queue import Caller
from tests.driver.conftest import Shop


async def test_callers_without_a_place_cost_the_client_next_to_nothing(shop: Shop) -> None:
    """They are tasks and futures; their requests are encoded when they come in, and dropped when answered.

    Seen to fail with the requests encoded at the door, and with deadlines that keep answered callers.
    """
    payments = [shop.payment(ignored="x" * 100_000) for _ in range(100)]
    async with AsyncFarebox(shop.dsn, connections=1, max_batch=5, max_waiting=10) as farebox:
        blocker = shop.payment()
        gc.collect()
        tracemalloc.start()
        try:
            with shop.hold(blocker):
                tasks = [asyncio.create_task(farebox.create_ticket(blocker))]
                await asyncio.to_thread(shop.db.wait_for_blocked, 1)
                tasks += [asyncio.create_task(farebox.create_ticket(payment)) for payment in payments]
                await asyncio.sleep(0)
                # Ten wait in the queue, and the pipeline holds three batches of five.
                waiting, _ = tracemalloc.get_traced_memory()
            assert {(await task).outcome for task in tasks} == {"created"}
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert waiting < 5_000_000
    assert peak < 8_000_000
    shop.assert_sound(101)


async def test_one_who_waits_long_does_not_keep_those_who_came_later(shop: Shop) -> None:
    """Seen to fail with deadlines that let go of the answered only in order."""
    async with AsyncFarebox(shop.dsn, connections=2, pipeline=1, timeout=600) as farebox:
        await asyncio.gather(*(farebox.create_ticket(payment) for payment in shop.payments(2)))
        with shop.hold(blocker := shop.payment()):
            first = asyncio.create_task(farebox.create_ticket(blocker))
            await asyncio.to_thread(shop.db.wait_for_blocked, 1)
            for _ in range(10):
                await asyncio.gather(*(farebox.create_ticket(payment) for payment in shop.payments(1000)))
            gc.collect()
            kept = sum(isinstance(thing, Caller) for thing in gc.get_objects())
        assert (await first).outcome == "created"
    assert kept < 5000


async def test_what_is_answered_is_gone_without_looking_for_cycles(shop: Shop) -> None:
    """Seen to fail with callers and their batch holding each other."""
    async with AsyncFarebox(shop.dsn, connections=1) as farebox:
        await farebox.create_ticket(shop.payment())
        gc.collect()
        gc.disable()
        try:
            await asyncio.gather(*(farebox.create_ticket(payment) for payment in shop.payments(500)))
            await asyncio.sleep(0)
            assert not [thing for thing in gc.get_objects() if isinstance(thing, Caller)]
        finally:
            gc.enable()
