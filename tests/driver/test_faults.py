"""Lost connections, refusing servers, transient errors: every call ends with its ticket or a clear error."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, LiteralString
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from psycopg import sql

from farebox import (
    AsyncFarebox,
    ClosedError,
    ConfigurationError,
    DataError,
    DeadlineExceededError,
    Farebox,
    FareboxError,
    TransientError,
)
from farebox.events import ConnectionEvent, Event, RetryEvent
from tests.driver.conftest import Call, Shop
from tests.support.proxy import Proxy, proxy_to


@pytest.fixture
def proxy(shop: Shop) -> Iterator[Proxy]:
    with proxy_to(shop.dsn) as proxy:
        yield proxy


def test_an_answer_lost_after_the_commit_ends_in_duplicate_with_the_right_ticket(
    shop: Shop, proxy: Proxy, connect: Call
) -> None:
    """Seen to fail without retries."""
    client = connect(proxy.dsn(shop.dsn), connections=1)
    client("create_ticket", shop.payment())
    payment = shop.payment()
    proxy.drop_answers()
    outcome = client("create_ticket", payment)
    proxy.wait_for_dropped_answer()
    assert outcome.outcome == "duplicate"
    assert outcome.ticket_id == shop.db.value(
        "select id from farebox.tickets where monime_transaction_id = %s", [payment["monime_transaction_id"]]
    )
    proxy.drop_answers()
    result = client("create_tickets", shop.payments(30), chunk_size=30)
    assert {o.outcome for o in result} == {"duplicate"}
    proxy.drop_answers()
    result = client("stream_tickets", shop.payments(30), chunk_size=30)
    assert {o.outcome for o in result} == {"duplicate"}
    shop.assert_sound(62)


async def test_every_answer_of_a_shared_batch_that_was_lost_finds_its_own_caller(
    shop: Shop, proxy: Proxy
) -> None:
    payments = shop.payments(500)
    async with AsyncFarebox(proxy.dsn(shop.dsn), connections=2) as farebox:
        await farebox.create_ticket(shop.payment())
        await asyncio.to_thread(proxy.drop_answers, 2, with_text=b"created")
        outcomes = await asyncio.gather(*(farebox.create_ticket(payment) for payment in payments))
    assert [o.monime_transaction_id for o in outcomes] == [p["monime_transaction_id"] for p in payments]
    assert Counter(o.outcome for o in outcomes)["duplicate"] >= 100
    shop.assert_sound(501)


async def test_a_client_closed_while_it_connects_leaves_nothing_half_open() -> None:
    """Seen to fail without `with_traceback` in `_wire.connect`: the listener's connection stays."""
    loop = asyncio.get_running_loop()
    gc.disable()  # It would tidy up sooner or later; the server cannot wait for that.
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.setblocking(False)
            port = server.getsockname()[1]
            farebox = AsyncFarebox(f"postgresql://127.0.0.1:{port}/x?sslmode=disable&gssencmode=disable")
            call = asyncio.create_task(farebox.get_company(uuid4()))
            peers = [(await loop.sock_accept(server))[0] for _ in ("for the call", "for the listener")]
            for peer in peers:
                peer.setblocking(False)
                assert await loop.sock_recv(peer, 1000)
            await farebox.close()
            with pytest.raises(ClosedError):
                await call
            for peer in peers:
                assert await asyncio.wait_for(loop.sock_recv(peer, 1000), 60) == b""
                peer.close()
    finally:
        gc.enable()


async def test_connections_that_are_cut_again_and_again_lose_and_double_nothing(
    shop: Shop, proxy: Proxy
) -> None:
    payments = shop.payments(3000)
    async with AsyncFarebox(proxy.dsn(shop.dsn), attempts=50, backoff=0.001) as farebox:
        calls = [asyncio.create_task(farebox.create_ticket(payment)) for payment in payments]
        for _ in range(25):
            await asyncio.to_thread(proxy.cut)
            await asyncio.wait(calls, timeout=0.02)
        outcomes = await asyncio.gather(*calls)
    assert {outcome.outcome for outcome in outcomes} <= {"created", "duplicate"}
    assert len({outcome.ticket_id for outcome in outcomes}) == 3000
    shop.assert_sound(3000)


async def _sell(farebox: AsyncFarebox, payments: list[dict[str, Any]]) -> list[Any]:
    calls = [farebox.create_ticket(payment) for payment in payments]
    answers: list[Any] = await asyncio.gather(*calls, return_exceptions=True)
    return answers


async def test_a_server_killed_and_restarted_under_load_answers_everybody_async(own_shop: Shop) -> None:
    payments = own_shop.payments(4000)
    async with AsyncFarebox(own_shop.dsn, attempts=100, backoff=0.02, timeout=60) as farebox:
        patient = asyncio.create_task(_sell(farebox, payments[:2000]))
        async with AsyncFarebox(own_shop.dsn) as hurried_client:
            hurried = asyncio.create_task(_sell(hurried_client, payments[2000:3990]))
            while not own_shop.tickets():
                await asyncio.sleep(0.001)
            await asyncio.to_thread(own_shop.db.server.cluster.kill)
            answers = await hurried + await _sell(hurried_client, payments[3990:])
            await asyncio.to_thread(own_shop.restart)
        outcomes = await patient
        assert all(not isinstance(answer, BaseException) for answer in outcomes)
        # Who ran out of attempts got a clear error, and the same call again tells what became of the payment.
        errors = {
            payment["monime_transaction_id"]: answer
            for payment, answer in zip(payments[2000:], answers, strict=True)
            if isinstance(answer, BaseException)
        }
        assert {type(error) for error in errors.values()} == {TransientError}
        failed = [payment for payment in payments if payment["monime_transaction_id"] in errors]
        assert len(failed) >= 10
        again = await _sell(farebox, failed)
        assert {answer.outcome for answer in again} <= {"created", "duplicate"}
    own_shop.assert_sound(4000)


def test_a_server_killed_and_restarted_under_load_answers_everybody_sync(own_shop: Shop) -> None:
    payments = own_shop.payments(2000)
    with (
        Farebox(own_shop.dsn, attempts=100, backoff=0.02, timeout=60) as farebox,
        ThreadPoolExecutor(32) as threads,
    ):
        calls = [threads.submit(farebox.create_ticket, payment) for payment in payments]
        bulk = threads.submit(farebox.create_tickets, own_shop.payments(2000), chunk_size=50)
        while not own_shop.tickets():
            time.sleep(0.001)
        own_shop.db.server.cluster.kill()
        own_shop.restart()
        assert {call.result(120).outcome for call in calls} <= {"created", "duplicate"}
        assert len(bulk.result(120).successful) == 2000
    own_shop.assert_sound(4000)


def test_a_refused_connection_is_tried_three_times_and_then_told(
    shop: Shop, proxy: Proxy, connect: Call
) -> None:
    events: list[Event] = []
    client = connect(proxy.dsn(shop.dsn), on_event=events.append)
    proxy.refuse()
    with pytest.raises(TransientError) as raised:
        client("create_ticket", shop.payment())
    assert raised.value.sqlstate is None
    assert [event.what for event in events if isinstance(event, ConnectionEvent)] == ["refused"] * 3
    with pytest.raises(TransientError):
        client("company_summary", shop.company)
    proxy.accept()
    assert client("create_ticket_with_retry", shop.payment()).outcome == "created"


def test_with_more_patience_a_call_waits_out_a_restart(shop: Shop, proxy: Proxy, connect: Call) -> None:
    events: list[Event] = []
    refused = threading.Event()

    def note(event: Event) -> None:
        events.append(event)
        if sum(isinstance(e, ConnectionEvent) and e.what == "refused" for e in events) == 4:
            refused.set()

    client = connect(proxy.dsn(shop.dsn), on_event=note, backoff=0.01)
    proxy.refuse()

    def restart() -> None:
        assert refused.wait(60)
        proxy.accept()

    with ThreadPoolExecutor(1) as threads:
        threads.submit(restart)
        outcome = client("create_ticket_with_retry", shop.payment(), attempts=1000)
    assert outcome.outcome == "created"


def test_a_full_server_is_transient_and_fewer_connections_do(shop: Shop, connect: Call) -> None:
    dsn = shop.db.login("farebox_app")
    login = urlsplit(dsn).username or ""
    shop.db.execute(sql.SQL("alter role {} connection limit 1").format(sql.Identifier(login)))
    with shop.db.connect(dsn=dsn), pytest.raises(TransientError, match="too many connections"):
        connect(dsn)("create_ticket", shop.payment())
    shop.db.wait_until("select not exists (select from pg_stat_activity where usename = %s)", [login])
    client = connect(dsn)
    result = client("create_tickets", shop.payments(100), chunk_size=10)
    assert len(result.successful) == 100


def test_settings_that_no_retry_heals_are_told_at_once(shop: Shop, connect: Call) -> None:
    events: list[Event] = []
    for wrong in (
        shop.db.server.dsn(shop.db.name, "postgres", "not-the-password"),
        shop.db.server.dsn("no_such_database"),
    ):
        events.clear()
        with pytest.raises(ConfigurationError):
            connect(wrong, on_event=events.append)("create_ticket", shop.payment())
        assert len(events) == 1


@pytest.mark.parametrize("sqlstate", ["40001", "40P01", "55P03", "57P03", "53300", "08006"])
def test_transient_errors_are_retried_as_often_as_told(shop: Shop, connect: Call, sqlstate: str) -> None:
    events: list[Event] = []
    shop.fail_tickets(sqlstate, otp="busy", times=2)
    client = connect(shop.dsn, backoff=0.001, on_event=events.append)
    assert client("create_ticket", shop.payment(monime_otp="busy")).outcome == "created"
    assert shop.failures() == 3
    retries = [event for event in events if isinstance(event, RetryEvent)]
    assert [(event.attempt, event.error) for event in retries] == [(1, sqlstate), (2, sqlstate)]
    assert retries[0].delay <= 0.001
    assert retries[1].delay <= 0.002


def test_after_the_last_attempt_the_error_is_raised(shop: Shop, connect: Call) -> None:
    shop.fail_tickets("40001", otp="busy")
    client = connect(shop.dsn, backoff=0.001)
    with pytest.raises(TransientError) as raised:
        client("create_ticket", shop.payment(monime_otp="busy"))
    assert raised.value.sqlstate == "40001"
    assert shop.failures() == 3
    with pytest.raises(TransientError):
        client("create_ticket_with_retry", shop.payment(monime_otp="busy"), attempts=5)
    assert shop.failures() == 8


def test_data_errors_are_never_retried(shop: Shop, connect: Call) -> None:
    shop.fail_tickets("22003", otp="poison")
    with pytest.raises(DataError):
        connect(shop.dsn)("create_ticket", shop.payment(monime_otp="poison"))
    assert shop.failures() == 1


def test_the_deadline_ends_a_call_that_nobody_answers(shop: Shop, proxy: Proxy, connect: Call) -> None:
    client = connect(proxy.dsn(shop.dsn), timeout=0.3)
    first = client("create_ticket", shop.payment())
    proxy.hang()
    payment = shop.payment()
    with pytest.raises(DeadlineExceededError):
        client("create_ticket", payment)
    with pytest.raises(DeadlineExceededError):
        client("create_tickets", [payment])
    proxy.go_on()
    again = client("create_ticket_with_retry", payment, timeout=60)
    assert again.outcome in ("created", "duplicate")
    assert again.ticket_id != first.ticket_id
    shop.assert_sound(2)


async def test_sessions_ended_by_the_administrator_are_replaced(shop: Shop) -> None:
    async with AsyncFarebox(shop.dsn, connections=1) as farebox:
        await farebox.create_ticket(shop.payment())
        end: LiteralString = (
            "select count(pg_terminate_backend(pid, 60000)) from pg_stat_activity"
            " where application_name = 'farebox' and datname = current_database()"
        )
        assert shop.db.value(end) == 1
        assert (await farebox.create_ticket(shop.payment())).outcome == "created"
        blocker = shop.payment()
        with shop.hold(blocker):
            call = asyncio.create_task(farebox.create_ticket(blocker))
            await asyncio.to_thread(shop.db.wait_for_blocked, 1)
            assert shop.db.value(end) == 1
        assert (await call).outcome == "created"
    shop.assert_sound(3)


async def test_reads_and_lists_survive_a_cut_too(shop: Shop, proxy: Proxy) -> None:
    async with AsyncFarebox(proxy.dsn(shop.dsn), attempts=50, backoff=0.001) as farebox:
        created = await farebox.create_ticket(shop.payment())
        await asyncio.to_thread(proxy.drop_answers)
        assert created.ticket_id is not None
        ticket = await farebox.get_ticket(created.ticket_id)
        assert ticket is not None
        await asyncio.to_thread(proxy.drop_answers)
        assert await farebox.verify() == []


async def test_an_error_belongs_to_one_caller(shop: Shop, proxy: Proxy) -> None:
    async with AsyncFarebox(proxy.dsn(shop.dsn), attempts=1) as farebox:
        proxy.refuse()
        answers = await _sell(farebox, shop.payments(3))
    assert all(isinstance(answer, FareboxError) for answer in answers)
    assert len({id(answer) for answer in answers}) == 3
