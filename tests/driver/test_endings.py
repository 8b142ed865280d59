"""Each call ends with what is its own, answer or error, whatever becomes of the client and of other calls."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

import pytest

from farebox import (
    AsyncFarebox,
    ClosedError,
    Farebox,
    InvalidRequestError,
    TicketOutcome,
    TransientError,
    UsageError,
    calls,
)
from farebox._deadlines import Deadlines
from farebox._queue import Caller, Patience
from farebox._replica import Reader
from farebox._wire import NotReplayedError
from farebox.events import BatchEvent, ConnectionEvent, Event
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
            assert failed == {5: InvalidRequestError, 11: InvalidRequestError}
    shop.assert_sound(15)


async def test_ready_made_json_cannot_swallow_a_neighbour_and_answer_in_its_place(shop: Shop) -> None:
    """Seen to fail: the victim is told of the thief's ticket, and has none."""
    victim, stolen = shop.payment(), json.dumps(shop.payment()).encode()
    payments: list[Any] = [shop.payment(), b'{"x": [1', victim, b"2]}", stolen + b", 3, 4"]
    async with AsyncFarebox(shop.dsn, connections=1, strict=False) as farebox:
        for list_method in (farebox.create_tickets, farebox.enqueue_many):
            with pytest.raises(InvalidRequestError) as raised:
                await list_method(payments)
            assert [(error.ordinal, error.field) for error in raised.value.errors] == [(2, "(element)")]
        await asyncio.gather(*map(farebox.enqueue, payments), return_exceptions=True)
        assert await farebox.queue_size() == 2
        answers = await asyncio.gather(*map(farebox.create_ticket, payments), return_exceptions=True)
    assert [isinstance(answer, TicketOutcome) for answer in answers] == [True, False, True, False, False]
    assert isinstance(answers[2], TicketOutcome)
    assert answers[2].monime_transaction_id == victim["monime_transaction_id"]
    shop.assert_sound(2)


async def test_closing_that_is_cancelled_closes_at_once(shop: Shop) -> None:
    """Seen to fail: the connections stayed, and whoever waited went on waiting."""
    farebox = AsyncFarebox(shop.dsn, timeout=None)
    await farebox.get_company(shop.company)
    with shop.hold(blocker := shop.payment()):
        call = asyncio.create_task(farebox.create_ticket(blocker))
        await asyncio.to_thread(shop.db.wait_for_blocked, 1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(farebox.close(grace=60), 0.01)
        with pytest.raises(ClosedError, match="unknown"):
            await asyncio.wait_for(call, 10)
    await asyncio.to_thread(
        shop.db.wait_until,
        "select not exists (select from pg_stat_activity"
        " where datname = current_database() and application_name = 'farebox')",
    )


async def test_connections_refused_at_once_are_one_attempt(shop: Shop) -> None:
    """Seen to fail: three refusals in the same moment, and everybody was out of attempts."""
    refused: list[Event] = []

    def note(event: Event) -> None:
        if isinstance(event, ConnectionEvent) and event.what == "refused":
            refused.append(event)

    with proxy_to(shop.dsn) as proxy:
        async with AsyncFarebox(proxy.dsn(shop.dsn), backoff=1.0, pipeline=1, on_event=note) as farebox:
            await farebox.create_ticket(shop.payment())
            await asyncio.to_thread(proxy.hang)
            lists = [asyncio.create_task(farebox.create_tickets([p])) for p in shop.payments(8)]
            while proxy.accepted < 4:
                await asyncio.sleep(0.001)
            await asyncio.to_thread(proxy.refuse)
            while len(refused) < 3:
                await asyncio.sleep(0.001)
            proxy.go_on()
            proxy.accept()
            assert {outcome.outcome for each in lists for outcome in await each} == {"created"}
    shop.assert_sound(9)


async def test_a_server_that_accepts_and_says_nothing_is_as_good_as_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Seen to fail: no further connection was ever tried, and who had no time limit waited for ever."""
    monkeypatch.setattr("farebox._wire._FIRST_ANSWER_SECONDS", 0.05)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"R\0\0\0\x08\0\0\0\0" + b"K\0\0\0\x0c\0\0\0\1\0\0\0\1" + b"Z\0\0\0\5I")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    dsn = f"postgresql://x@127.0.0.1:{port}/x?sslmode=disable&gssencmode=disable"
    async with AsyncFarebox(dsn, timeout=None, backoff=0, strict=False) as farebox:
        with pytest.raises(TransientError, match="does not answer"):
            await asyncio.wait_for(farebox.create_ticket({}), 10)
    server.close()


def test_a_client_called_by_its_own_hook_says_so(shop: Shop) -> None:
    """Seen to fail: it waits for itself for ever."""
    told: list[UsageError] = []

    def hook(_: Event) -> None:
        calls: list[Callable[[], object]] = [
            farebox.verify,
            farebox.close,
            lambda: list(farebox.stream_tickets([{}], strict=False)),
        ]
        for call in calls if not told else ():
            try:
                call()
            except UsageError as error:
                told.append(error)

    with Farebox(shop.dsn, on_event=hook) as farebox:
        assert farebox.create_ticket(shop.payment()).ok
    assert [type(error) for error in told] == [UsageError] * 3
    assert "hook" in str(told[0])


def test_a_hook_that_would_exit_leaves_nobody_waiting(shop: Shop) -> None:
    """Seen to fail: the client's thread was gone, and nobody told the callers."""

    def hook(event: Event) -> None:
        if isinstance(event, BatchEvent):
            sys.exit()

    with Farebox(shop.dsn, on_event=hook) as farebox:
        assert [farebox.create_ticket(payment).ok for payment in shop.payments(2)] == [True, True]


async def test_a_time_limit_that_is_no_number_harms_nobody(shop: Shop) -> None:
    """Seen to fail: what cannot be compared ended the answers of a whole batch."""
    wrong: Any = "5"
    async with AsyncFarebox(shop.dsn) as farebox:
        for timeout in (wrong, float("nan")):
            with pytest.raises(UsageError, match="timeout"):
                await farebox.create_ticket(shop.payment(), timeout=timeout)
            with pytest.raises(UsageError, match="timeout"):
                await farebox.enqueue(shop.payment(), timeout=timeout)
            with pytest.raises(UsageError, match="timeout"):
                await (await farebox.enqueue(shop.payment())).result(timeout)
        for attempts in (wrong, 0):
            with pytest.raises(UsageError, match="attempts"):
                await farebox.create_ticket_with_retry(shop.payment(), attempts=attempts)
        assert await farebox.queue_size() == 2
    shop.assert_sound(0)


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


async def test_waiting_for_a_replica_leaves_time_for_the_primary() -> None:
    """Seen to fail: it waited for `replica_wait`, however little time the call had."""
    primary, replica = mock.Mock(writes=0), mock.Mock()
    primary.run = mock.AsyncMock(return_value=["read"])
    replica.run = mock.AsyncMock(side_effect=NotReplayedError("behind"))
    reader = Reader(primary, replica, Patience(timeout=2), replica_wait=60)
    async with asyncio.timeout(10):
        assert list[Any](await reader.run(calls.GET_TICKET, (), "own_writes")) == ["read"]
    assert primary.run.await_args is not None
    assert 0 < primary.run.await_args.args[2].timeout < 2


async def test_a_change_whose_answer_was_lost_shows_at_once(shop: Shop) -> None:
    """Seen to fail with a cache that forgets after answers only."""
    with proxy_to(shop.dsn) as proxy:
        async with AsyncFarebox(
            proxy.dsn(shop.dsn), connections=1, attempts=1, listen_dsn="host=127.0.0.1 port=1"
        ) as farebox:
            await farebox.get_company(shop.company)
            await asyncio.to_thread(proxy.drop_answers)
            with pytest.raises(TransientError):
                await farebox.upsert_companies([{"id": shop.company, "name": "Renamed"}])
            company = await farebox.get_company(shop.company)
            assert company is not None
            assert company.name == "Renamed"


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
