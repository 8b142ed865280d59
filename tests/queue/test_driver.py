"""`enqueue`, `enqueue_many`, `queue_size` and waiting for outcomes, by both clients."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from farebox import AsyncFarebox, DeadlineExceededError, InvalidRequestError
from farebox.worker import Worker
from tests.driver.conftest import Call, Client, connect
from tests.driver.pooler import pooled
from tests.queue.support import Shop, assert_all_done, missing, process_all
from tests.support.database import Database
from tests.support.servers import Farm

__all__ = ["connect"]


@contextlib.asynccontextmanager
async def _working(dsn: str, **options: Any) -> AsyncGenerator[Worker]:
    worker = Worker(dsn, **options)
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        worker.stop()
        await task


def _process(db: Database) -> None:
    with db.connect(autocommit=True) as conn:
        process_all(conn)


def test_a_stored_request_has_a_number_and_later_a_ticket(db: Database, connect: Call) -> None:
    shop = Shop(db)
    [payment] = shop.payments(1)
    client: Client = connect(db.dsn)
    stored = client("enqueue", payment)
    assert client("queue_size") == 1
    assert repr(stored) == f"{type(stored).__name__}(queue_id={stored.queue_id})"
    _process(db)
    outcome = client.come(stored.result())
    assert outcome.outcome == "created"
    assert outcome.ticket_id == db.value("select id from farebox.tickets")
    assert client("queue_size") == 0


def test_many_are_stored_in_order_and_each_knows_its_outcome(db: Database, connect: Call) -> None:
    shop = Shop(db)
    payments = shop.payments(25)
    client: Client = connect(db.dsn)
    stored = client("enqueue_many", [*payments, payments[0] | {"amount": 1}], chunk_size=10)
    assert [each.queue_id for each in stored] == sorted(each.queue_id for each in stored)
    _process(db)
    outcomes = [client.come(each.result()) for each in stored]
    assert [outcome.outcome for outcome in outcomes] == ["created"] * 25 + ["conflict"]
    assert [outcome.monime_transaction_id for outcome in outcomes[:25]] == [
        payment["monime_transaction_id"] for payment in payments
    ]
    assert client("enqueue_many", []) == []


def test_a_malformed_request_is_refused_before_it_is_sent_or_stored_if_asked_for(
    db: Database, connect: Call
) -> None:
    shop = Shop(db)
    [payment] = shop.payments(1, amount=0)
    client: Client = connect(db.dsn)
    with pytest.raises(InvalidRequestError):
        client("enqueue", payment)
    with pytest.raises(InvalidRequestError):
        client("enqueue_many", [*shop.payments(3), payment])
    assert client("queue_size") == 0
    stored = client("enqueue", payment, strict=False)
    _process(db)
    outcome = client.come(stored.result())
    assert (outcome.outcome, outcome.reason) == ("rejected", "amount_invalid")


def test_waiting_ends_in_time_and_the_request_stays(db: Database, connect: Call) -> None:
    shop = Shop(db)
    payments = shop.payments(2)
    client: Client = connect(db.dsn)
    stored = client("enqueue", payments[0])
    with pytest.raises(DeadlineExceededError):
        client.come(stored.result(0.01))
    with pytest.raises(DeadlineExceededError):
        client("enqueue", payments[1], wait=True, timeout=0.5)
    assert client("queue_size") == 2
    _process(db)
    assert client.come(stored.result()).ok
    assert_all_done(db, payments)


async def test_ten_thousand_enqueue_at_once_and_each_gets_its_own_ticket(db: Database) -> None:
    shop = Shop(db)
    payments = shop.payments(10_000)
    async with AsyncFarebox(db.dsn, max_waiting=10_000) as farebox:
        stored = await asyncio.gather(*(farebox.enqueue(payment) for payment in payments))
        assert len({each.queue_id for each in stored}) == 10_000
        async with _working(db.dsn, batch_size=500):
            outcomes = await asyncio.gather(*(each.result(timeout=100) for each in stored))
    assert [o.monime_transaction_id for o in outcomes] == [p["monime_transaction_id"] for p in payments]
    assert {o.outcome for o in outcomes} == {"created"}
    assert len({o.ticket_id for o in outcomes}) == 10_000
    assert_all_done(db, payments)


async def test_callers_who_wait_share_calls_and_one_who_leaves_leaves_the_others(db: Database) -> None:
    shop = Shop(db)
    payments = shop.payments(50)
    async with AsyncFarebox(db.dsn) as farebox:
        calls = [asyncio.create_task(farebox.enqueue(payment, wait=True)) for payment in payments]
        while await farebox.queue_size() < 50:
            await asyncio.sleep(0)
        for call in calls[::2]:
            call.cancel()
        async with _working(db.dsn):
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes[::2])
    assert [outcome.outcome for outcome in outcomes[1::2]] == ["created"] * 25  # type: ignore[union-attr]
    assert_all_done(db, payments)


@pytest.mark.parametrize("server", ["pg18"], indirect=True)
async def test_waiting_works_where_no_notification_arrives(db: Database, farm: Farm) -> None:
    """Client and worker behind a transaction-mode pooler: both look for themselves."""
    shop = Shop(db)
    payments = shop.payments(20)
    with pooled(farm, db.dsn) as dsn:
        async with AsyncFarebox(dsn) as farebox, _working(dsn, flush=0.05):
            outcomes = await asyncio.gather(*(farebox.enqueue(p, wait=True) for p in payments))
    assert {outcome.outcome for outcome in outcomes} == {"created"}
    assert missing(db, payments) == set()


async def test_waiting_survives_lost_connections(db: Database) -> None:
    """The listener's and the caller's are cut while callers wait."""
    shop = Shop(db)
    payments = shop.payments(10)
    async with AsyncFarebox(db.dsn) as farebox:
        calls = [asyncio.create_task(farebox.enqueue(payment, wait=True)) for payment in payments]
        while await farebox.queue_size() < 10:
            await asyncio.sleep(0)
        await asyncio.to_thread(
            db.wait_until,
            "select count(*) > 0 from pg_stat_activity"
            " where datname = current_database() and query = 'listen farebox_settled'",
        )
        await asyncio.to_thread(
            db.execute,
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and application_name = 'farebox'",
        )
        async with _working(db.dsn):
            outcomes = await asyncio.gather(*calls)
    assert {outcome.outcome for outcome in outcomes} == {"created"}
    assert_all_done(db, payments)
