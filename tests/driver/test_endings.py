"""Each call ends with what is its own, answer or error, whatever becomes of the client and of other calls."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

import pytest

from farebox import AsyncFarebox, ClosedError, DatabaseError, DataError, Farebox, TransientError, calls
from farebox._deadlines import Deadlines
from farebox._queue import Caller, Patience
from farebox._replica import Reader
from farebox.events import Event
from tests.driver.conftest import Shop
from tests.support.proxy import proxy_to


def test_closing_tells_threads_that_wait_for_a_server_that_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen to fail with calls that are cancelled before they can tell: `CancelledError`."""
    monkeypatch.setattr(Patience, "delay", mock.Mock(return_value=60.0))
    refused = threading.Event()

    def note(_: Event) -> None:
        refused.set()

    farebox = Farebox("host=127.0.0.1 port=1", timeout=120, on_event=note, strict=False)
    with ThreadPoolExecutor() as threads:
        single = threads.submit(farebox.create_ticket, {})
        several = threads.submit(farebox.create_tickets, [{}])
        assert refused.wait(60)
        farebox.close()
        for call in (single, several):
            with pytest.raises(ClosedError):
                call.result()


async def test_a_batch_that_fails_while_the_client_closes_leaves_nobody_waiting(shop: Shop) -> None:
    """Nor is its fault told to all of it. Seen to fail with halves that nobody sends any more."""
    shop.fail_tickets("23514", otp="poison")
    farebox = AsyncFarebox(shop.dsn, connections=1, timeout=10)
    await farebox.create_ticket(shop.payment())
    with shop.hold(blocker := shop.payment()):
        # Its id makes it the last that is looked at: the batch waits first.
        poison = shop.payment(monime_otp="poison", monime_transaction_id="~~~")
        batch = asyncio.gather(
            farebox.create_ticket(blocker), farebox.create_ticket(poison), return_exceptions=True
        )
        await asyncio.to_thread(shop.db.wait_for_blocked, 1)
        closing = asyncio.create_task(farebox.close())
        await asyncio.sleep(0)
    assert [type(answer) for answer in await batch] == [ClosedError, ClosedError]
    await closing
    shop.assert_sound(1)


async def test_ready_made_json_that_is_two_elements_spoils_nobody_elses_answer(shop: Shop) -> None:
    async with AsyncFarebox(shop.dsn, connections=1, strict=False) as farebox:
        payments: list[Any] = [*shop.payments(5), b"{},{}", *shop.payments(5), b" ", *shop.payments(5)]
        for method in (farebox.create_ticket, farebox.enqueue):
            answers = await asyncio.gather(*map(method, payments), return_exceptions=True)
            failed = {n: type(answer) for n, answer in enumerate(answers) if isinstance(answer, Exception)}
            assert failed.keys() == {5, 11}
            assert set(failed.values()) <= {DataError, DatabaseError}
    shop.assert_sound(15)


async def test_what_an_outcome_is_waited_for_by_two_each_gets_an_error_of_its_own(shop: Shop) -> None:
    async with AsyncFarebox(shop.dsn) as farebox:
        stored = await farebox.enqueue(shop.payment())
        waiting = asyncio.gather(stored.result(), stored.result(), return_exceptions=True)
        await asyncio.sleep(0)
    one, other = await waiting
    assert isinstance(one, ClosedError)
    assert isinstance(other, ClosedError)
    assert one is not other


async def test_a_company_whose_answer_was_lost_is_added_once(shop: Shop) -> None:
    """Seen to fail with ids that the database makes, a new one for each try."""
    with proxy_to(shop.dsn) as proxy:
        async with AsyncFarebox(proxy.dsn(shop.dsn), connections=1, backoff=0.001) as farebox:
            await farebox.create_ticket(shop.payment())
            await asyncio.to_thread(proxy.drop_answers)
            [company, nobody] = await farebox.upsert_companies([{"name": "Once"}, {"name": ""}], strict=False)
            await asyncio.to_thread(proxy.wait_for_dropped_answer)
            assert (nobody.outcome, nobody.id) == ("rejected", None)
            assert [c.id for c in await farebox.list_companies() if c.name == "Once"] == [company.id]


async def test_a_primary_that_does_not_answer_is_not_held_against_the_replica() -> None:
    """Reads that need no more than the replica go on there. Seen to fail with both asked in one `try`."""
    primary, replica = mock.Mock(writes=1), mock.Mock()
    primary.run = mock.AsyncMock(side_effect=TransientError("the primary is down"))
    replica.run = mock.AsyncMock(return_value=["read"])
    reader = Reader(primary, replica, Patience(), replica_wait=0.1)
    with pytest.raises(TransientError):
        await reader.run(calls.GET_TICKET, (), "own_writes")
    assert list[Any](await reader.run(calls.GET_TICKET, (), "replica")) == ["read"]


async def test_deadlines_that_are_computed_anew_for_each_call_need_few_timers() -> None:
    """And all are kept. Seen to fail with a queue and a timer for each: every answer looked through all."""
    loop = asyncio.get_running_loop()
    expired: list[Caller] = []
    everybody = asyncio.Event()

    def expire(caller: Caller) -> None:
        expired.append(caller)
        caller.cancel()
        if len(expired) == 900:
            everybody.set()

    deadlines = Deadlines(expire)
    callers = [Caller(loop) for _ in range(1000)]
    timeouts = [number / 100_000 for number in range(1000)]
    start = loop.time()
    with mock.patch.object(loop, "call_at", wraps=loop.call_at) as timers:
        for caller, timeout in zip(callers, timeouts, strict=True):
            caller.deadline = start + timeout
            deadlines.add(caller, timeout)
        assert timers.call_count < 20
        for answered in callers[50:150]:
            answered.succeed(None)
        deadlines.tidy()
        async with asyncio.timeout(60):
            await everybody.wait()
    assert set(expired) == {*callers[:50], *callers[150:]}
