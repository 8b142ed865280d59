"""Concurrent calls share batches on few connections, and each caller gets its own answer."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest

from farebox import (
    AsyncFarebox,
    BusyError,
    ClosedError,
    DatabaseError,
    DeadlineExceededError,
    Farebox,
    UsageError,
)
from farebox.events import BatchEvent, Event
from tests.driver.conftest import Shop

CALLERS = 10_000


def batches(events: list[Event]) -> list[BatchEvent]:
    return [event for event in events if isinstance(event, BatchEvent)]


async def until_blocked(shop: Shop, sessions: int = 1) -> None:
    """Lets the client work until so many of its sessions wait for a lock."""
    await asyncio.to_thread(shop.db.wait_for_blocked, sessions)


async def test_ten_thousand_callers_need_four_connections_and_full_batches(shop: Shop) -> None:
    events: list[Event] = []
    payments = shop.payments(CALLERS)
    async with AsyncFarebox(shop.dsn, on_event=events.append) as farebox:
        outcomes = await asyncio.gather(*(farebox.create_ticket(payment) for payment in payments))
        sessions = shop.db.value(
            "select count(*) from pg_stat_activity"
            " where datname = current_database() and application_name = 'farebox'"
        )
    assert [outcome.monime_transaction_id for outcome in outcomes] == [
        payment["monime_transaction_id"] for payment in payments
    ]
    assert Counter(outcome.outcome for outcome in outcomes) == {"created": CALLERS}
    assert len({outcome.ticket_id for outcome in outcomes}) == CALLERS
    assert sessions <= 4
    sizes = [event.size for event in batches(events)]
    assert sum(sizes) == CALLERS
    assert max(sizes) == 100
    assert len(sizes) < 2 * CALLERS / 100
    shop.assert_sound(CALLERS)


async def test_five_times_as_many_callers_than_places_all_get_in_and_the_queue_stays_short(
    shop: Shop,
) -> None:
    events: list[Event] = []
    async with AsyncFarebox(shop.dsn, max_waiting=200, max_batch=50, on_event=events.append) as farebox:
        outcomes = await asyncio.gather(*(farebox.create_ticket(p) for p in shop.payments(1000)))
    assert {outcome.outcome for outcome in outcomes} == {"created"}
    assert max(event.size for event in batches(events)) <= 50


async def test_a_batch_may_be_thousands(shop: Shop) -> None:
    events: list[Event] = []
    async with AsyncFarebox(shop.dsn, max_batch=2000, connections=1, on_event=events.append) as farebox:
        await farebox.create_ticket(shop.payment())
        await asyncio.gather(*(farebox.create_ticket(payment) for payment in shop.payments(4000)))
    assert max(event.size for event in batches(events)) == 2000
    shop.assert_sound(4001)


async def test_one_caller_alone_waits_for_nobody(shop: Shop) -> None:
    events: list[Event] = []
    async with AsyncFarebox(shop.dsn, on_event=events.append) as farebox:
        for payment in shop.payments(3):
            await farebox.create_ticket(payment)
    assert [(event.function, event.size) for event in batches(events)] == [("create_ticket", 1)] * 3


async def test_threads_share_batches_too(shop: Shop) -> None:
    events: list[Event] = []
    payments = shop.payments(16)
    with (
        Farebox(shop.dsn, connections=1, on_event=events.append) as farebox,
        ThreadPoolExecutor(16) as threads,
    ):
        blocker = shop.payment()
        with shop.hold(blocker):
            first = threads.submit(farebox.create_ticket, blocker)
            await until_blocked(shop)
            rest = [threads.submit(farebox.create_ticket, payment) for payment in payments[1:]]
            while len(farebox_queue(farebox)) < 15:
                await asyncio.sleep(0.001)
        assert first.result(60).outcome == "created"
        assert {future.result(60).outcome for future in rest} == {"created"}
    assert [event.size for event in batches(events)] == [1, 15]


def farebox_queue(farebox: Farebox | AsyncFarebox) -> list[object]:
    """The callers without a connection: the one look inside that these tests need."""
    front = farebox._front if isinstance(farebox, Farebox) else farebox  # pyright: ignore[reportPrivateUsage]
    core = front._core  # pyright: ignore[reportPrivateUsage]
    assert core is not None
    return list(core.primary.tickets.waiting)


async def test_a_cancelled_caller_cancels_nobody_else(shop: Shop) -> None:
    async with AsyncFarebox(shop.dsn, connections=1) as farebox:
        blocker = shop.payment()
        with shop.hold(blocker):
            tasks = [asyncio.create_task(farebox.create_ticket(p)) for p in [blocker, *shop.payments(4)]]
            await until_blocked(shop)
            waiting = [asyncio.create_task(farebox.create_ticket(p)) for p in shop.payments(3)]
            await asyncio.sleep(0)
            tasks[2].cancel()  # its batch is under way
            waiting[1].cancel()  # still in the queue
            await asyncio.gather(tasks[2], waiting[1], return_exceptions=True)
        left = [task for task in tasks + waiting if not task.cancelled()]
        assert [(await task).outcome for task in left] == ["created"] * 6
    # The one under way was created all the same; the one that was not sent never will be.
    shop.assert_sound(7)


async def test_a_caller_whose_time_is_up_takes_nobody_with_it(shop: Shop) -> None:
    async with AsyncFarebox(shop.dsn, connections=1) as farebox:
        blocker, other = shop.payment(), shop.payment()
        with shop.hold(blocker):
            patient = asyncio.create_task(farebox.create_ticket(blocker))
            hurried = asyncio.create_task(farebox.create_ticket(other, timeout=1))
            await until_blocked(shop)
            late = asyncio.create_task(farebox.create_ticket(shop.payment(), timeout=0.05))
            with pytest.raises(DeadlineExceededError, match="unknown"):
                await hurried
            with pytest.raises(DeadlineExceededError, match="nothing happened"):
                await late
        assert (await patient).outcome == "created"
        assert (await farebox.create_ticket(other)).outcome == "duplicate"
    shop.assert_sound(2)


async def test_a_statement_nobody_waits_for_any_more_does_not_hold_its_connection(shop: Shop) -> None:
    async with AsyncFarebox(shop.dsn, connections=1) as farebox:
        blocker = shop.payment()
        with shop.hold(blocker):
            with pytest.raises(DeadlineExceededError):
                await farebox.create_ticket(blocker, timeout=0.05)
            # The only connection is stuck behind a lock that is still held: another one takes its place.
            assert (await farebox.create_ticket(shop.payment())).outcome == "created"
    shop.db.wait_until(
        "select not exists (select from pg_stat_activity"
        " where datname = current_database() and wait_event_type = 'Lock')"
    )


@pytest.mark.parametrize("sqlstate", ["22000", "23514", "XX000"])
async def test_a_request_that_breaks_its_batch_fails_alone(shop: Shop, sqlstate: str) -> None:
    shop.fail_tickets(sqlstate, otp="poison")
    payments = shop.payments(50)
    payments[17] = shop.payment(monime_otp="poison")
    payments[18] = shop.payment(monime_otp="poison")
    async with AsyncFarebox(shop.dsn, connections=1) as farebox:
        answers = await asyncio.gather(
            *(farebox.create_ticket(payment) for payment in payments), return_exceptions=True
        )
    failed = [number for number, answer in enumerate(answers) if isinstance(answer, BaseException)]
    assert failed == [17, 18]
    assert answers[17] is not answers[18]
    shop.assert_sound(48)


async def test_a_full_queue_raises_at_once_if_told_so(shop: Shop) -> None:
    async with AsyncFarebox(shop.dsn, connections=1, max_waiting=2, when_full="raise") as farebox:
        blocker = shop.payment()
        with shop.hold(blocker):
            first = asyncio.create_task(farebox.create_ticket(blocker))
            await until_blocked(shop)
            waiting = [asyncio.create_task(farebox.create_ticket(p)) for p in shop.payments(2)]
            await asyncio.sleep(0)
            with pytest.raises(BusyError):
                await farebox.create_ticket(shop.payment())
            # Who has gone takes up no place. Seen to fail with places that come free at a connection only.
            waiting.pop().cancel()
            waiting.append(asyncio.create_task(farebox.create_ticket(shop.payment())))
        assert {(await task).outcome for task in [first, *waiting]} == {"created"}
        assert (await farebox.create_ticket(shop.payment())).outcome == "created"
    shop.assert_sound(4)


async def test_a_list_alone_never_finds_the_queue_full(shop: Shop) -> None:
    """Seen to fail: its own chunks filled it."""
    async with AsyncFarebox(shop.dsn, connections=1, max_waiting=2, when_full="raise") as farebox:
        assert len((await farebox.create_tickets(shop.payments(20), chunk_size=1)).successful) == 20


async def test_a_full_queue_makes_callers_wait_in_order_and_counts_no_one_twice(shop: Shop) -> None:
    async with AsyncFarebox(shop.dsn, connections=1, max_waiting=2) as farebox:
        blocker = shop.payment()
        with shop.hold(blocker):
            first = asyncio.create_task(farebox.create_ticket(blocker))
            await until_blocked(shop)
            tasks = [asyncio.create_task(farebox.create_ticket(p)) for p in shop.payments(20)]
            late = asyncio.create_task(farebox.create_ticket(shop.payment(), timeout=0.01))
            await asyncio.sleep(0)
            assert len(farebox_queue(farebox)) == 2
            tasks[5].cancel()
            with pytest.raises(DeadlineExceededError, match="nothing happened"):
                await late
        answers = await asyncio.gather(first, *tasks, return_exceptions=True)
        assert sum(not isinstance(answer, BaseException) for answer in answers) == 20
        # All places are free again: two wait, the third has to stand aside.
        with shop.hold(blocker := shop.payment()):
            first = asyncio.create_task(farebox.create_ticket(blocker))
            await until_blocked(shop)
            tasks = [asyncio.create_task(farebox.create_ticket(p)) for p in shop.payments(3)]
            await asyncio.sleep(0)
            assert len(farebox_queue(farebox)) == 2
        await asyncio.gather(first, *tasks)
    shop.assert_sound(24)


async def test_neither_does_one_whose_callers_were_cancelled(shop: Shop) -> None:
    """And who was sent behind it on that connection is not cancelled with it.

    Seen to fail with the loss of the connection counted as an attempt of theirs.
    """
    async with AsyncFarebox(shop.dsn, connections=1, attempts=1) as farebox:
        blocker = shop.payment()
        with shop.hold(blocker):
            call = asyncio.create_task(farebox.create_ticket(blocker))
            await until_blocked(shop)
            behind = asyncio.create_task(farebox.create_tickets(shop.payments(2)))
            await asyncio.sleep(0.01)
            call.cancel()
            assert (await farebox.create_ticket(shop.payment())).outcome == "created"
            assert len((await behind).successful) == 2


async def test_single_calls_are_not_starved_by_a_long_list(shop: Shop) -> None:
    async with AsyncFarebox(shop.dsn, connections=1) as farebox:
        await farebox.create_ticket(shop.payment())
        bulk = asyncio.create_task(farebox.create_tickets(shop.payments(5000), chunk_size=50))
        await asyncio.sleep(0)
        for _ in range(5):
            assert (await farebox.create_ticket(shop.payment())).outcome == "created"
            assert not bulk.done()
        assert (await bulk).total == 5000
    shop.assert_sound(5006)


async def test_a_stream_takes_only_as_much_as_it_has_under_way(shop: Shop) -> None:
    taken = 0

    def endless() -> Iterator[dict[str, Any]]:
        nonlocal taken
        while True:
            taken += 1
            yield shop.payment()

    async with AsyncFarebox(shop.dsn, connections=2, pipeline=2) as farebox:
        ordinals: list[int] = []
        stream = farebox.stream_tickets(endless(), chunk_size=10)
        async for outcome in stream:
            ordinals.append(outcome.ordinal)
            assert taken <= outcome.ordinal + 10 * (2 * 2 * 2 + 1)
            if len(ordinals) == 500:
                break
        await stream.aclose()
        assert all(later == earlier + 1 for earlier, later in pairwise(ordinals))
        assert (await farebox.create_ticket(shop.payment())).outcome == "created"

    async def arriving() -> AsyncIterator[dict[str, Any]]:
        for payment in payments:
            await asyncio.sleep(0)
            yield payment

    payments = shop.payments(25)
    async with AsyncFarebox(shop.dsn) as farebox:
        outcomes = [o async for o in farebox.stream_tickets(arriving(), chunk_size=10)]
    assert [o.monime_transaction_id for o in outcomes] == [p["monime_transaction_id"] for p in payments]


async def test_an_error_ends_a_list_and_leaves_nothing_running(shop: Shop) -> None:
    shop.fail_tickets("XX000", otp="poison")
    payments = shop.payments(100)
    payments[55] = shop.payment(monime_otp="poison")
    async with AsyncFarebox(shop.dsn) as farebox:
        with pytest.raises(DatabaseError):
            await farebox.create_tickets(payments, chunk_size=10)
        del payments[55]
        result = await farebox.create_tickets(payments, chunk_size=10)
        assert len(result.successful) == 99
    shop.assert_sound(99)


async def test_closing_fails_what_was_not_sent_and_waits_for_what_was(shop: Shop) -> None:
    farebox = AsyncFarebox(shop.dsn, connections=1)
    blocker = shop.payment()
    with shop.hold(blocker):
        sent = asyncio.create_task(farebox.create_ticket(blocker))
        await until_blocked(shop)
        queued = asyncio.create_task(farebox.create_ticket(shop.payment()))
        await asyncio.sleep(0)
        closing = asyncio.create_task(farebox.close())
        with pytest.raises(ClosedError):
            await queued
        assert not sent.done()
    await closing
    assert (await sent).outcome == "created"
    with pytest.raises(ClosedError):
        await farebox.create_ticket(shop.payment())
    await farebox.close()
    shop.assert_sound(1)


def test_a_closed_sync_client_says_so_and_leaves_no_thread(shop: Shop) -> None:
    farebox = Farebox(shop.dsn)
    assert farebox.create_ticket(shop.payment()).outcome == "created"
    engine = farebox._engine  # pyright: ignore[reportPrivateUsage]
    assert engine is not None
    farebox.close()
    assert not engine.thread.is_alive()
    with pytest.raises(ClosedError):
        farebox.create_ticket(shop.payment())
    farebox.close()


def test_one_client_serves_one_event_loop_after_the_other_but_not_two_at_once(shop: Shop) -> None:
    farebox = AsyncFarebox(shop.dsn)

    async def sell() -> str:
        return (await farebox.create_ticket(shop.payment())).outcome

    assert asyncio.run(sell()) == "created"
    assert asyncio.run(sell()) == "created"

    async def sell_and_have_another_loop_try() -> None:
        await sell()
        with pytest.raises(UsageError, match="event loop"):
            await asyncio.to_thread(asyncio.run, sell())
        await farebox.close()

    asyncio.run(sell_and_have_another_loop_try())


async def test_two_clients_with_the_same_payments_get_the_same_tickets(shop: Shop) -> None:
    payments = shop.payments(300)
    async with AsyncFarebox(shop.dsn, connections=2) as one, AsyncFarebox(shop.dsn, connections=2) as two:
        answers = await asyncio.gather(
            *(one.create_ticket(payment) for payment in payments),
            *(two.create_ticket(payment) for payment in reversed(payments)),
        )
    assert Counter(answer.outcome for answer in answers) == {"created": 300, "duplicate": 300}
    assert [answer.ticket_id for answer in answers[:300]] == [
        answer.ticket_id for answer in reversed(answers[300:])
    ]
    shop.assert_sound(300)


async def test_the_times_of_an_event_are_seconds_and_add_up(shop: Shop) -> None:
    events: list[Event] = []
    start = time.monotonic()
    async with AsyncFarebox(shop.dsn, on_event=events.append) as farebox:
        await farebox.create_ticket(shop.payment())
    [event] = batches(events)
    assert event.waited >= 0
    assert event.duration > 0
    assert event.waited + event.duration <= time.monotonic() - start
    assert (event.attempt, event.outcomes, event.error) == (1, {"created": 1}, None)


async def test_answers_that_come_while_callers_still_queue_up_are_kept_for_the_loops_turn(shop: Shop) -> None:
    """And whoever is out of time by then has its answer all the same, or is told the truth.

    Seen to fail with deadlines that do not look at unread answers: `nothing happened`, and tickets there.
    """
    payments = shop.payments(5000)
    async with AsyncFarebox(shop.dsn) as farebox:
        await asyncio.gather(*(farebox.create_ticket(payment) for payment in shop.payments(500)))
        calls = [asyncio.ensure_future(farebox.create_ticket(p, timeout=1e-6)) for p in payments]
        future = asyncio.gather(*calls, return_exceptions=True)
        assert not any(call.done() for call in calls)
        answers = await future
        unsent = {
            payment["monime_transaction_id"]
            for payment, answer in zip(payments, answers, strict=True)
            if "nothing happened" in str(answer)
        }
    made = {id_ for (id_,) in shop.db.execute("select monime_transaction_id from farebox.tickets")}
    assert not unsent & made


async def test_closing_reads_what_has_been_answered(shop: Shop) -> None:
    async with AsyncFarebox(shop.dsn) as farebox:
        await asyncio.gather(*(farebox.create_ticket(payment) for payment in shop.payments(500)))
        future = asyncio.gather(
            *(farebox.create_ticket(payment) for payment in shop.payments(5000)), return_exceptions=True
        )
    answers = await future
    created = sum(not isinstance(answer, BaseException) for answer in answers)
    assert {type(answer) for answer in answers if isinstance(answer, BaseException)} <= {ClosedError}
    shop.assert_sound(500 + created)
