"""A lost shard costs its own rows and nobody else's, and works again the moment it is back."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest

from farebox import AsyncFarebox, TransientError
from farebox.shards import check, status
from tests.cli.commands import start
from tests.core.support import Call, Connection, Outcome, create, said, violations
from tests.operate.support import found
from tests.queue.support import json_lines
from tests.shards.support import RoutedDatabase, Sharded
from tests.shards.test_registry import Companies
from tests.support.servers import Farm, Server


class Loseable(Sharded):
    """Shard `two` is on a server of its own, which can be killed."""

    def __init__(self, server: Server, other: Server, *, registry: bool) -> None:
        self.other = other
        super().__init__(server, registry=registry)

    def server_of(self, name: str) -> Server:
        return self.other if name == "two" else self.server

    def kill(self) -> None:
        """Kill -9 of the postmaster and all its children: one that lives on might still answer."""
        postmaster = self.other.cluster.postmaster()
        assert postmaster is not None
        children = Path(f"/proc/{postmaster.pid}/task/{postmaster.pid}/children").read_text().split()
        self.other.cluster.kill()
        for child in map(int, children):
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while any(Path(f"/proc/{child}").exists() for child in children):
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def start(self) -> None:
        self.other.start()


@pytest.fixture(scope="module")
def other_server(farm: Farm) -> Iterator[Server]:
    with farm.private("pg15", fsync="off") as server:
        yield server


@pytest.fixture(scope="module")
def made(other_server: Server, sharded_server: Sharded) -> Iterator[Callable[[bool], Loseable]]:
    """With the registry and without it, each once it is needed."""

    @functools.cache
    def make(registry: bool) -> Loseable:
        sharded = Loseable(sharded_server.server, other_server, registry=registry)
        RoutedDatabase(sharded).show_tables()
        stack.callback(sharded.drop)
        return sharded

    with ExitStack() as stack:
        yield make


@pytest.fixture
def loseable(request: pytest.FixtureRequest, made: Callable[[bool], Loseable]) -> Loseable:
    """With the registry, unless a test says otherwise."""
    return made(getattr(request, "param", True))


_WITH_AND_WITHOUT_REGISTRY = pytest.mark.parametrize(
    "loseable", [True, False], ids=["registry", "no registry"], indirect=True
)
"""For what takes another way without it; what a shard is asked, and how its loss is found, is the same."""


@pytest.fixture
def db(loseable: Loseable) -> Iterator[RoutedDatabase]:
    database = RoutedDatabase(loseable)
    yield database
    database.close()


@pytest.fixture
def companies(db: RoutedDatabase) -> Companies:
    return Companies(db)


def pay(companies: Companies, shard: str, home: str) -> dict[str, Any]:
    return companies.pay(shard, companies.db.sharded.payment_at(home))


def test_others_rows_stand_and_the_lost_ones_come_when_it_is_back(
    loseable: Loseable, companies: Companies
) -> None:
    db = companies.db
    conn = db.connect(autocommit=True)
    batch = [pay(companies, shard, home) for shard in ("one", "two", "three") for home in ("one", "three")]
    sold = create(conn, *batch[:1], *batch[-1:])
    assert set(said(sold)) == {"created"}
    # Kept on `one`, resolved by a ticket on `two`: verify() cannot look it up, and `one` is not lost.
    contested = loseable.payment_at("one")
    assert said(create(conn, companies.pay("one", contested, amount=0))) == ["amount_invalid"]
    assert said(create(conn, companies.pay("two", contested))) == ["created"]
    loseable.kill()
    expected = ["duplicate", "created", "shard_unavailable", "shard_unavailable", "created", "duplicate"]
    assert said(create(conn, *batch)) == expected
    # Another session, which has no connection to lose yet.
    assert said(create(db.connect(autocommit=True), *batch[2:4])) == ["shard_unavailable"] * 2
    # Nor does the router write anything for it: whoever looks at a lost shard would wait for the disk.
    with db.connect() as looking:
        loseable.look_again(looking)
        assert said(create(looking, *batch[2:4])) == ["shard_unavailable"] * 2
        assert looking.execute("select pg_current_xact_id_if_assigned()").fetchone() == (None,)
    [problem] = violations(db)
    assert problem[:2] == ("shard_answers", "shard two")
    assert [state.answers for state in status(loseable.dsn)[1]] == [True, False, True]
    ticket: LiteralString = "select id from farebox.get_ticket(%s)"
    assert [conn.execute(ticket, [o.ticket_id]).fetchone() for o in sold] == [(o.ticket_id,) for o in sold]
    for query in (ticket, "select * from farebox.company_summary(%s)"):
        with pytest.raises(psycopg.OperationalError, match="a shard is not available") as raised:
            conn.execute(query.encode(), [companies.ids["two"]])
        assert raised.value.sqlstate == "57P03"
    [[up]] = conn.execute(
        "select sum(value) from farebox.metrics_server() where metric = 'farebox_shard_up'"
    ).fetchall()
    assert up == 2
    assert [each.message for each in found(loseable.dsn, "shards")] == ["the shard two does not answer"]
    loseable.start()
    loseable.wait_until_seen()
    assert said(create(conn, *batch)) == ["duplicate"] * 2 + ["created"] * 2 + ["duplicate"] * 2
    assert violations(db) == []
    assert check(loseable.dsn) == []


@_WITH_AND_WITHOUT_REGISTRY
def test_a_lost_shard_of_the_registry_costs_the_payments_it_registers(
    loseable: Loseable, companies: Companies
) -> None:
    """The price of the registry; without it nobody else notices."""
    conn = companies.db.connect(autocommit=True)
    batch = [pay(companies, "one", "two"), pay(companies, "one", "three")]
    loseable.kill()
    first = "shard_unavailable" if loseable.layout.has_registry else "created"
    assert said(create(conn, *batch)) == [first, "created"]
    stored = conn.execute(
        "select queue_id is not null from farebox.enqueue_tickets(%s::json)",
        [json.dumps([pay(companies, shard, "three") for shard in ("one", "two")])],
    )
    assert stored.fetchall() == [(True,), (False,)]
    loseable.start()
    loseable.wait_until_seen()
    assert create(conn, *batch)[0].ticket_id is not None
    assert violations(companies.db) == []


@_WITH_AND_WITHOUT_REGISTRY
def test_killed_in_the_middle_of_calls_every_payment_is_created_once_and_told_so(
    loseable: Loseable, companies: Companies
) -> None:
    """Four sessions send batches over all shards, again what is unavailable, while a shard dies twice.

    The answers of a call in which the shard dies are all lost, though the others have committed; asked again
    they tell `created`, not `duplicate`, of what that call created. Seen to fail (without the registry) with
    `p_again` of `_shard_create_tickets` recognising nothing.
    """
    db = companies.db
    stop = threading.Event()

    def sell(number: int) -> tuple[int, int]:
        conn = db.connect(autocommit=True)
        payments = 0
        strange = 0
        while not stop.is_set() or payments < 60:
            batch = [
                companies.pay(shard, f"pay-{number}-{payments + n}") for n, shard in enumerate(companies.ids)
            ]
            payments += len(batch)
            settled: dict[str, Outcome] = {}
            while len(settled) < len(batch):
                rest = [p for p in batch if p["monime_transaction_id"] not in settled]
                for outcome in create(conn, *rest):
                    if outcome.said != "shard_unavailable":
                        settled[str(outcome.transaction_id)] = outcome
            # Only of what died itself it cannot be known whether the ticket was made before.
            strange += sum(
                settled[p["monime_transaction_id"]].said != "created"
                for p in batch
                if p["company_id"] != str(companies.ids["two"])
            )
        return payments, strange

    calls = [Call(functools.partial(sell, number)) for number in range(4)]
    for _ in range(2):
        before = db.value("select count(*) from farebox.tickets")
        db.wait_until("select count(*) > %s from farebox.tickets", [before + 60])
        loseable.kill()
        loseable.start()
        db.disconnect_own()
    stop.set()
    results = [call.result() for call in calls]
    loseable.wait_until_seen()
    assert db.value("select count(*) from farebox.tickets") == sum(payments for payments, _ in results)
    if not loseable.layout.has_registry:
        assert sum(strange for _, strange in results) == 0
    assert violations(db) == []


async def test_the_driver_waits_for_a_lost_shard_and_for_nobody_else(
    loseable: Loseable, companies: Companies
) -> None:
    mine = [pay(companies, "two", "one") for _ in range(3)]
    others = [pay(companies, "three", "one") for _ in range(3)]
    async with AsyncFarebox(loseable.dsn, attempts=30, backoff=0.05) as client:
        await client.create_ticket(pay(companies, "two", "three"))
        loseable.kill()
        waiting = [asyncio.create_task(client.create_ticket(ticket)) for ticket in mine]
        stored = asyncio.create_task(client.enqueue(pay(companies, "two", "one")))
        assert [(await client.create_ticket(ticket)).outcome for ticket in others] == ["created"] * 3
        result = asyncio.create_task(
            client.create_tickets([mine[0] | {"monime_transaction_id": "listed"}, others[0]])
        )
        loseable.start()
        assert [outcome.outcome for outcome in await asyncio.gather(*waiting)] == ["created"] * 3
        assert [(o.ordinal, o.outcome) for o in await result] == [(1, "created"), (2, "duplicate")]
        assert (await stored).queue_id > 0
    async with AsyncFarebox(loseable.dsn, attempts=2, backoff=0.001) as client:
        loseable.kill()
        with pytest.raises(TransientError, match="a shard is not available"):
            await client.create_ticket(mine[0])
        [outcome] = (await client.create_tickets([mine[0]])).failed
        assert outcome.reason == "shard_unavailable"
        with pytest.raises(TransientError, match="a shard is not available"):
            await client.enqueue_many([mine[0]])
        loseable.start()


def test_a_dead_shards_queue_waits_and_the_others_run(loseable: Loseable, companies: Companies) -> None:
    db = companies.db
    conn: Connection = db.connect(autocommit=True)
    batch = [pay(companies, shard, "one") for shard in ("one", "two", "three")]
    conn.execute("select from farebox.enqueue_tickets(%s::json)", [json.dumps(batch)])
    loseable.kill()
    ids = conn.execute(
        "select queue_id from farebox.enqueue_tickets(%s::json)", [json.dumps(batch[:2])]
    ).fetchall()
    assert ids[0][0] is not None
    assert ids[1][0] is None
    # What is dropped comes back whole, or nothing is dropped.
    with pytest.raises(psycopg.errors.CannotConnectNow):
        conn.execute("select * from farebox.drop_queued_requests(%s)", [[f"queue:{ids[0][0]}"]])
    assert loseable.on("one", "select 1 from farebox.ticket_queue where id = %s", [ids[0][0]]) == [(1,)]
    process = "select taken, created from farebox.process_ticket_queue()"
    assert [conn.execute(process).fetchone() for _ in range(3)].count((0, 0)) == 1
    loseable.start()
    loseable.wait_until_seen()
    assert db.value("select farebox.queue_size()") == 1
    assert conn.execute(process).fetchone() == (1, 1)
    assert db.value("select count(*) from farebox.tickets") == 3
    assert violations(db) == []


def test_a_worker_serves_all_shards_a_killed_one_when_it_is_back_and_ends_well(
    loseable: Loseable, companies: Companies
) -> None:
    """`farebox worker` as a process; the shard dies while it makes tickets of the worker's batch.

    Seen to fail with `process_ticket_queue` of the router raising when a shard is lost.
    """
    db = companies.db
    conn: Connection = db.connect(autocommit=True)

    def store(*shards: str) -> list[bool]:
        """Twenty requests of each company; whether they are stored."""
        batch = [pay(companies, shard, home) for shard in shards for home in ("one", "three") * 10]
        rows = conn.execute("select queue_id from farebox.enqueue_tickets(%s::json)", [json.dumps(batch)])
        return [queue_id is not None for (queue_id,) in rows]

    def until(shard: str, condition: LiteralString) -> None:
        deadline = time.monotonic() + 60
        while loseable.on(shard, condition) != [(True,)]:
            assert time.monotonic() < deadline, condition
            time.sleep(0.002)

    def hold(shard: str) -> Connection:
        """Twenty more, of which the worker can make no tickets until this ends."""
        gate = db.connect(dsn=loseable.shard_dsn(shard))
        gate.execute("lock table farebox.companies in access exclusive mode")
        assert store(shard) == [True] * 20
        until(
            shard,
            "select count(*) > 0 from pg_stat_activity where application_name = 'farebox_router'"
            " and datname = current_database() and wait_event_type = 'Lock'",
        )
        return gate

    worker = start("worker", "--batch-size", 10, "--log-format", "json", dsn=loseable.dsn)
    try:
        assert store("one", "two", "three") == [True] * 60
        for shard in companies.ids:
            until(shard, "select count(*) = 20 from farebox.tickets")
        hold("two")
        loseable.kill()
        assert store("one", "two", "three") == [True] * 20 + [False] * 20 + [True] * 20
        for shard in ("one", "three"):
            until(shard, "select count(*) = 40 from farebox.tickets")
        loseable.start()
        until("two", "select count(*) = 40 from farebox.tickets")
        gate = hold("one")
        worker.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            worker.wait(timeout=0.2)
        gate.rollback()
        log = json_lines(worker.communicate(timeout=60)[1])
    finally:
        worker.kill()
        worker.communicate()
    assert worker.returncode == 0
    assert {line["event"] for line in log} == {"batch"}
    assert {line["taken"] - line["created"] for line in log} == {0}
    assert db.value("select count(*) from farebox.list_dead_requests()") == 0
    assert violations(db) == []
