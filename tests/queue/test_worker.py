"""`farebox worker` as a process: it stops well, wakes at once, outlives lost connections, rests when idle."""

import asyncio
import json
import signal
import subprocess
import time
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, LiteralString
from urllib.error import HTTPError

import pytest

from farebox import _silence
from farebox._cluster import free_port
from farebox._dsn import Target
from farebox._queue import Patience
from farebox.errors import FareboxError, PermissionDeniedError, TransientError
from farebox.queue_models import BatchCounts
from farebox.worker import Worker
from farebox.worker_health import Health, HealthFile, serve_health
from farebox.worker_session import Session
from tests.cli.commands import start
from tests.driver.pooler import pooled
from tests.driver.replica import replica_of
from tests.queue.support import Shop, assert_all_done, enqueue, json_lines, missing, poison
from tests.support.database import Database
from tests.support.proxy import proxy_to
from tests.support.servers import Farm

# Longer than any test: whoever gets on within it was woken.
_NEVER = 600_000
_LISTENS = (
    "select count(*) = 1 from pg_stat_activity where datname = current_database() and query like 'listen %%'"
)


@contextmanager
def _worker(dsn: str, *options: object) -> Generator["subprocess.Popen[bytes]"]:
    """A worker of its own; killed at the end, if it still runs."""
    process = start("worker", "--log-format", "json", *options, dsn=dsn)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _end(process: "subprocess.Popen[bytes]", number: signal.Signals = signal.SIGTERM) -> list[dict[str, Any]]:
    """Stops it as a process manager does; it must end well. Its log."""
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return json_lines(err)


def _until_empty(db: Database) -> None:
    db.wait_until("select farebox.queue_size() = 0")


def _listening(db: Database) -> None:
    """Returns when the worker listens and has nothing to do."""
    db.wait_until(_LISTENS, [])
    db.wait_until("select last_value = 1 from farebox.ticket_queue_bell")


def _until_stopping(port: int) -> None:
    deadline = time.monotonic() + 60
    while _ask(port)[1]["state"] != "stopping":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _ask(port: int) -> tuple[int, dict[str, Any]]:
    """Status and report of the health page."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
            return answer.status, json.load(answer)
    except HTTPError as error:
        with error:
            return error.code, json.load(error)


def _store(db: Database, payments: list[dict[str, Any]]) -> None:
    with db.connect(autocommit=True) as conn:
        enqueue(conn, payments)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_works_until_it_is_told_to_stop(db: Database, number: signal.Signals) -> None:
    shop = Shop(db)
    payments = shop.payments(450)
    _store(db, payments)
    with _worker(db.dsn, "--batch-size", 50) as process:
        _until_empty(db)
        log = _end(process, number)
    batches = [line for line in log if line.get("event") == "batch"]
    for line in batches:
        counts = BatchCounts.model_validate(line)
        assert counts.taken == sum(counts.model_dump(exclude={"taken"}).values()) > 0
        assert line["duration"] > 0
    assert any(line["taken"] == 50 for line in batches)
    assert_all_done(db, payments)


def test_it_finishes_its_batch_before_it_stops(db: Database) -> None:
    shop = Shop(db)
    [payment] = shop.payments(1)
    with db.connect() as other, _worker(db.dsn, "--concurrency", 1) as process:
        other.execute("select farebox.create_ticket(%s)", [json.dumps(payment)])
        _store(db, [payment])
        db.wait_for_blocked(1)
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.2)
        other.rollback()
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert_all_done(db, [payment])


def test_a_second_signal_ends_it_at_once_and_nothing_is_lost(db: Database) -> None:
    shop = Shop(db)
    payments = shop.payments(3)
    port = free_port()
    with db.connect() as other, _worker(db.dsn, "--concurrency", 1, "--health-port", port) as process:
        other.execute("select farebox.create_ticket(%s)", [json.dumps(payments[0])])
        _store(db, payments)
        db.wait_for_blocked(1)
        process.send_signal(signal.SIGTERM)
        # Two that are pending at once arrive as one: the health page tells when the first has arrived.
        _until_stopping(port)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == 128 + signal.SIGTERM
        assert missing(db, payments) == {payment["monime_transaction_id"] for payment in payments}
        other.rollback()
    with _worker(db.dsn) as process:
        _until_empty(db)
        _end(process)
    assert_all_done(db, payments)


def test_a_notification_wakes_it_at_once(db: Database) -> None:
    """Every time: a single one that it sleeps through would end this test."""
    shop = Shop(db)
    payments = shop.payments(150)
    with _worker(db.dsn, "--flush-ms", _NEVER, "--batch-size", 10) as process:
        _listening(db)
        for payment in payments[:20]:
            _listening(db)
            _store(db, [payment])
            _until_empty(db)
        for payment in payments[20:]:  # while it works, lies down, or sleeps
            _store(db, [payment])
        _until_empty(db)
        _end(process)
    assert_all_done(db, payments)


def test_without_notifications_it_looks_for_itself(db: Database) -> None:
    """The bell is rung and the notification is lost with the producer's transaction."""
    shop = Shop(db)
    payments = shop.payments(4)
    with _worker(db.dsn, "--flush-ms", 50) as process:
        for payment in payments:
            _listening(db)
            db.execute("select setval('farebox.ticket_queue_bell', 0)")
            _store(db, [payment])
            _until_empty(db)
        _end(process)
    assert_all_done(db, payments)


@pytest.mark.parametrize("server", ["pg18"], indirect=True)
def test_it_works_through_a_transaction_mode_pooler(db: Database, farm: Farm) -> None:
    shop = Shop(db)
    payments = shop.payments(300)
    with pooled(farm, db.dsn, pool_size=2) as dsn:
        with _worker(dsn, "--flush-ms", 50, "--concurrency", 4) as process:
            _store(db, payments)
            _until_empty(db)
            log = _end(process)
        assert any("pooler" in line["message"] for line in log)
        # With a direct way to listen it is woken there.
        with _worker(dsn, "--flush-ms", _NEVER, "--listen-dsn", db.dsn) as process:
            _listening(db)
            more = shop.payments(1)
            _store(db, more)
            _until_empty(db)
            _end(process)
    assert_all_done(db, payments + more)


def test_the_listener_reconnects_by_itself(db: Database) -> None:
    shop = Shop(db)
    payments = shop.payments(1)
    with _worker(db.dsn, "--flush-ms", _NEVER) as process:
        _listening(db)
        [(listener,)] = db.execute(
            "select pid from pg_stat_activity where datname = current_database() and query like 'listen %%'",
            [],
        )
        db.execute("select pg_terminate_backend(%s)", [listener])
        db.wait_until(
            "select count(*) = 1 from pg_stat_activity"
            " where datname = current_database() and query like 'listen %%' and pid <> %s",
            [listener],
        )
        _listening(db)
        _store(db, payments)
        _until_empty(db)
        _end(process)
    assert_all_done(db, payments)


def test_it_outlives_a_restart_of_the_server(own_db: Database) -> None:
    shop = Shop(own_db)
    before, after = shop.payments(50), shop.payments(50)
    with _worker(own_db.dsn, "--flush-ms", _NEVER) as process:
        _store(own_db, before)
        _until_empty(own_db)
        own_db.server.cluster.kill()
        own_db.server.start()
        with suppress(Exception):
            own_db.execute("select")
        _listening(own_db)
        _store(own_db, after)
        _until_empty(own_db)
        log = _end(process)
    assert any(line.get("event") == "listener_lost" for line in log)
    assert_all_done(own_db, before + after)


def test_it_works_after_a_failover(own_db: Database, farm: Farm) -> None:
    """The primary dies, its standby is promoted: sessions and listener find it by themselves."""
    shop = Shop(own_db)
    before, after = shop.payments(50), shop.payments(50)
    with replica_of(farm, own_db.server) as standby:
        promoted = Database(replace(own_db.server, cluster=standby.cluster, port=standby.port), own_db.name)
        hosts = f"127.0.0.1:{own_db.server.port},127.0.0.1:{standby.port}/"
        dsn = own_db.dsn.replace(f"127.0.0.1:{own_db.server.port}/", hosts)
        with _worker(f"{dsn}?target_session_attrs=read-write", "--flush-ms", _NEVER) as process:
            _store(own_db, before)
            _until_empty(own_db)
            standby.catch_up()
            own_db.server.cluster.kill()
            promoted.execute("select pg_promote()")
            _listening(promoted)
            _store(promoted, after)
            _until_empty(promoted)
            _end(process)
        assert_all_done(promoted, before + after)
        promoted.close()
    own_db.server.start()


def test_an_idle_worker_holds_back_no_vacuum_and_looks_once_a_flush_interval(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many connections it has: they rest, and one at a time looks."""
    steps: list[float] = []

    class Counting(Session):
        async def step(self) -> BatchCounts:
            counts = await super().step()
            steps.append(time.monotonic())
            return counts

    monkeypatch.setattr("farebox.worker.Session", Counting)

    async def main() -> None:
        worker = Worker(db.dsn, concurrency=6, flush=0.05)
        task = asyncio.create_task(worker.run())
        while len(steps) < 30 or not worker.health.listening:
            await asyncio.sleep(0.01)
        idle = await asyncio.to_thread(
            db.execute,
            "select count(*) filter (where state <> 'idle' or backend_xmin is not null), count(*)"
            " from pg_stat_activity where datname = current_database() and application_name = 'farebox'"
            " and query like 'listen %%'",
            [],
        )
        assert idle == [(0, 1)]
        worker.stop()
        await task

    asyncio.run(main())
    # The first look of each, one after the listener began; then one for each interval.
    elapsed = steps[-1] - steps[7]
    assert len(steps) - 8 <= elapsed / 0.05 + 1


async def test_what_is_nobodys_fault_counts_against_no_request(db: Database) -> None:
    """A full disk outlasts any number of attempts, with care and without, and then all become tickets. Seen
    to fail with the attempts counted that were begun with care: they are given up after three.
    """
    shop = Shop(db)
    payments = shop.payments(3, monime_otp="UNLUCKY")
    poison(db, "UNLUCKY", "raise disk_full")
    _store(db, payments)
    session = Session(Target(db.dsn), 2, lambda _: None)
    careful = 0
    while db.value("select last_value from public.poisoned") < 25:
        assert db.value("select farebox.queue_size()") == 3
        try:
            careful += (await session.step()).retried
        except FareboxError:  # a whole batch
            session.careful = 2
    assert careful > 12
    db.execute("drop trigger poison on farebox.tickets")
    while db.value("select farebox.queue_size()"):
        await session.step()
    await session.close()
    assert_all_done(db, payments)


@pytest.mark.parametrize(("action", "careful"), [("raise disk_full", 0), ("raise out_of_memory", 2)])
async def test_only_what_may_be_a_requests_fault_makes_requests_suspect(
    db: Database, action: LiteralString, careful: int
) -> None:
    """As the database sees it; here is no second list. Seen to fail when the worker does not ask it."""
    shop = Shop(db)
    poison(db, "UNLUCKY", action)
    _store(db, shop.payments(3, monime_otp="UNLUCKY"))
    session = Session(Target(db.dsn), 2, lambda _: None)
    session.careful = 0
    with pytest.raises(FareboxError):
        await session.step()
    assert session.careful == careful
    await session.close()


async def test_what_is_nobodys_fault_but_one_requests_holds_up_nobody_else(db: Database) -> None:
    """Such as a trigger with a bug. Once a bug: the batch with it in front was tried again for ever."""
    shop = Shop(db)
    payments = shop.payments(5)
    poison(db, "BROKEN", "raise undefined_column")
    _store(db, shop.payments(1, monime_otp="BROKEN") + payments)
    session = Session(Target(db.dsn), 10, lambda _: None)
    session.careful = 0
    for _ in range(50):
        with suppress(FareboxError):
            await session.step()
    await session.close()
    assert missing(db, payments) == set()
    assert db.value("select attempts from farebox.ticket_queue") == 0


async def test_others_wait_for_what_is_put_back_no_longer_than_for_any_look(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that is careful rests after it, for up to ten seconds when it comes again. Once a bug."""

    def long(_patience: Patience, _failures: int) -> float:
        return 600.0

    monkeypatch.setattr(Patience, "delay", long)
    shop = Shop(db)
    payments = shop.payments(3)
    poison(db, "BROKEN", "raise undefined_column")
    _store(db, shop.payments(1, monime_otp="BROKEN"))
    worker = Worker(db.dsn, concurrency=1, flush=0.05)
    task = asyncio.create_task(worker.run())
    put_back = "select exists (select from farebox.ticket_queue where reason = 'error_42703')"
    await asyncio.to_thread(db.wait_until, put_back)
    _store(db, payments)
    await asyncio.to_thread(db.wait_until, "select count(*) = 3 from farebox.tickets")
    worker.stop()
    await task


async def test_draining_waits_for_an_attempt_whose_worker_has_died(db: Database) -> None:
    """Once a bug: it ended at once, whatever else was ready, for nobody else may begin one meanwhile."""
    shop = Shop(db)
    payments = shop.payments(5)
    _store(db, payments)
    assert db.value("select farebox.begin_queued_request()") is not None
    await Worker(db.dsn).drain()
    assert_all_done(db, payments)


async def test_draining_ends_with_the_error_that_comes_again_and_again(db: Database) -> None:
    """Once a bug: each request was put back, for nothing was its fault, and taken again, for ever."""
    shop = Shop(db)
    poison(db, "BROKEN", "raise insufficient_privilege")
    _store(db, shop.payments(60, monime_otp="BROKEN"))
    async with asyncio.timeout(60):
        with pytest.raises(PermissionDeniedError):
            await Worker(db.dsn, batch_size=2).drain()
    assert db.value("select farebox.queue_size()") == 60


async def test_a_server_that_is_away_makes_no_request_suspect() -> None:
    """Else a worker would come back from a long outage and take ten thousand requests one by one."""
    nowhere = Target(f"postgresql://nobody@127.0.0.1:{free_port()}/none")
    session = Session(nowhere, 5, lambda _: None)
    for _ in range(8):
        with pytest.raises(FareboxError):
            await session.step()
    assert session.careful == 5


async def test_a_server_that_falls_silent_is_given_up_and_found_again(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No reset comes, and the kernel confirms all that is sent. Once the worker waited for ever."""
    monkeypatch.setattr(_silence, "SILENCE_SECONDS", 0.5)
    with proxy_to(db.dsn) as proxy, db.connect(autocommit=True) as conn:
        session = Session(Target(proxy.dsn(db.dsn)), 5)
        await session.step()
        await asyncio.to_thread(proxy.hang)
        step = asyncio.create_task(session.step())
        done, _ = await asyncio.wait([step], timeout=30)
        await asyncio.to_thread(proxy.go_on)
        assert done
        with pytest.raises(TransientError):
            await step
        assert not session.connected
        enqueue(conn, Shop(db).payments(1))
        assert (await session.step()).created == 1
        await session.close()


async def test_a_listener_whose_server_falls_silent_listens_again(
    db: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_silence, "SILENCE_SECONDS", 0.5)
    monkeypatch.setattr("farebox.worker._HEARTBEAT_SECONDS", 0.2)
    with proxy_to(db.dsn) as proxy:
        worker = Worker(db.dsn, listen_dsn=proxy.dsn(db.dsn))
        running = asyncio.create_task(worker.run())
        async with asyncio.timeout(30):
            while not worker.health.listening:
                await asyncio.sleep(0.01)
        await asyncio.to_thread(proxy.hang)
        try:
            async with asyncio.timeout(30):
                while worker.health.listening:
                    await asyncio.sleep(0.01)
        finally:
            await asyncio.to_thread(proxy.go_on)
        async with asyncio.timeout(30):
            while not worker.health.listening:
                await asyncio.sleep(0.01)
        worker.stop()
        await running
    assert "the listener lost its connection" in caplog.text


async def test_a_batch_that_takes_long_on_a_server_that_answers_is_waited_for(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_silence, "SILENCE_SECONDS", 2.0)
    with proxy_to(db.dsn) as proxy, db.connect(autocommit=True) as conn, db.connect() as holder:
        enqueue(conn, Shop(db).payments(1))
        session = Session(Target(proxy.dsn(db.dsn)), 5)
        holder.execute("lock table farebox.tickets in share mode")
        step = asyncio.create_task(session.step())
        async with asyncio.timeout(60):
            while proxy.accepted < 3:  # its own, and two that it asked for
                await asyncio.sleep(0.01)
        holder.rollback()
        assert (await step).created == 1
        await session.close()


def test_wrong_settings_end_it_at_the_start(db: Database) -> None:
    for dsn, code in ((db.login("farebox_app"), 4), (db.server.dsn("no_such_database"), 3)):
        with _worker(dsn) as process:
            _, err = process.communicate(timeout=60)
            assert process.returncode == code, err


# -- health -------------------------------------------------------------------------------------------------


def test_health_is_told_by_a_file_and_a_page(db: Database, tmp_path: Path) -> None:
    file, port = tmp_path / "health", free_port()
    shop = Shop(db)
    _store(db, shop.payments(3))
    with _worker(db.dsn, "--health-file", file, "--health-port", port, "--flush-ms", 50) as process:
        _until_empty(db)
        deadline = time.monotonic() + 60
        while not (file.exists() and json.loads(file.read_text())["created"] == 3):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        status, report = _ask(port)
        assert status == 200
        assert (report["alive"], report["created"], report["pid"]) == (True, 3, process.pid)
        _end(process)
    assert not file.exists()


async def test_a_worker_whose_database_is_silent_is_not_well(tmp_path: Path) -> None:
    health = Health(patience=30.0, state="running")
    file = HealthFile(tmp_path / "health")
    file.update(health)
    assert (tmp_path / "health").exists()
    health.answered_at -= 31
    file.update(health)
    assert not (tmp_path / "health").exists()
    port = free_port()
    async with await serve_health(health, port):
        status, report = await asyncio.to_thread(_ask, port)
    assert (status, report["alive"]) == (503, False)


def test_a_health_file_that_cannot_be_written_stops_no_worker(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A full disk, say. Once a bug."""
    HealthFile(tmp_path / "none" / "health").update(Health(patience=30.0, state="running"))
    assert "health file" in caplog.text
