# pyright: reportUnusedImport=false

"""Reads from real streaming standbys of shards: `farebox shards reader`, the driver's `read_dsn`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from inspect import unwrap

import psycopg
import pytest

from farebox import Farebox
from farebox.events import BatchEvent, Event
from farebox.shards import Problem, check, move
from farebox.shards._layout import place_of
from tests.cli.commands import farebox
from tests.driver.conftest import Call, Client
from tests.driver.conftest import connect as either
from tests.driver.replica import Replica, replica_of
from tests.shards.support import SHARDS, RoutedDatabase, Sharded
from tests.shards.test_registry import Companies
from tests.support.servers import Farm


class Standby:
    """A server with a router and its shards, its standby, and a router that reads from there."""

    def __init__(self, sharded: Sharded, replica: Replica, reader: str) -> None:
        self.sharded = sharded
        self.replica = replica
        self.reader = reader
        self.companies = Companies(RoutedDatabase(sharded))
        self._events: list[Event] = []

    def client(self, connect: Call) -> Client:
        """That writes by the router and reads by the other one."""
        client = connect(
            self.sharded.dsn,
            read_dsn=self.sharded.server.dsn(self.reader),
            replica_wait=5,
            on_event=self._events.append,
        )
        assert isinstance(client, Client)
        return client

    def payments(self) -> list[dict[str, object]]:
        """One of each company."""
        return [self.companies.pay(name, self.sharded.payment_at("one")) for name in SHARDS]

    def answered(self) -> set[tuple[str, str]]:
        """Which functions were answered since the last call of this, and who by."""
        seen = {
            (event.function, "standby" if event.target.endswith(self.reader) else "router")
            for event in self._events
            if isinstance(event, BatchEvent) and event.error is None
        }
        self._events.clear()
        return seen


@pytest.fixture(scope="module")
def installation(farm: Farm, sharded_server: Sharded) -> Iterator[Standby]:
    with ExitStack() as stack:
        server = stack.enter_context(
            farm.private(sharded_server.server.name, wal_level="logical", wal_retrieve_retry_interval="50ms")
        )
        sharded = Sharded(server)
        replica = stack.enter_context(replica_of(farm, server))
        server.create_database("reads")
        places = [f"{name}={replica.dsn(database)}" for name, database in sharded.names.items()]
        made = farebox("shards", "reader", server.dsn("reads"), *places, dsn=sharded.dsn)
        assert made.code == 0, made.err
        standby = Standby(sharded, replica, "reads")
        yield standby
        standby.companies.db.disconnect()
        sharded.close()


@pytest.fixture(params=[Farebox], ids=["sync"])
def connect(request: pytest.FixtureRequest) -> Iterator[Call]:
    """One of the two clients: they read by the same code."""
    yield from unwrap(either)(request)


@pytest.fixture
def standby(installation: Standby) -> Iterator[Standby]:
    yield installation
    installation.replica.resume()


def test_reads_go_to_the_standbys_and_nothing_else_does(standby: Standby, connect: Call) -> None:
    """Seen to fail (`own_writes` finds nothing) without the driver asking whether that is a router."""
    client = standby.client(connect)
    old = [outcome.ticket_id for outcome in client("create_tickets", standby.payments())]
    standby.replica.catch_up()
    standby.replica.pause()
    assert [client("get_ticket", ticket).id for ticket in old] == old
    assert standby.answered() == {("create_tickets", "router"), ("get_ticket", "standby")}

    [new, *_] = [outcome.ticket_id for outcome in client("create_tickets", standby.payments())]
    company = standby.companies.ids["one"]
    assert client("get_ticket", new) is None
    before = client("company_summary", company).tickets
    assert len(client("pending_tickets", company)) == before
    assert {who for function, who in standby.answered() if function != "create_tickets"} == {"standby"}
    for consistency in ("primary", "own_writes"):
        assert client("get_ticket", new, consistency=consistency).id == new
    assert standby.answered() >= {("get_ticket", "router")}

    standby.replica.resume()
    standby.replica.catch_up()
    assert client("get_ticket", new).id == new
    assert client("company_summary", company).tickets == before + 1
    assert {who for _, who in standby.answered()} == {"standby"}
    assert check(standby.sharded.dsn) == []


def test_reads_follow_a_partition_that_moves(standby: Standby, connect: Call) -> None:
    """Its reader's map is the router's after the switch.

    Seen to fail (nothing is found) with nobody telling it.
    """
    sharded = standby.sharded
    client = standby.client(connect)
    [ticket, *_] = [outcome.ticket_id for outcome in client("create_tickets", standby.payments())]
    company = standby.companies.ids["one"]
    partition = standby.companies.db.value("select farebox._partition_of(%s)", [str(company)])
    sold = client("company_summary", company, consistency="primary").tickets
    gone = "postgresql://127.0.0.1:1/gone"
    standby.companies.db.execute("insert into farebox.readers (place) values (%s)", [place_of(gone)])
    standby.answered()
    for target in ("three", "one"):
        told = [progress.text for progress in move(sharded.dsn, partition, target)]
        assert sum("keeps its old map" in text for text in told) == 1
        standby.replica.catch_up()
        assert client("get_ticket", ticket).id == ticket
        assert client("company_summary", company).tickets == sold
        assert {who for _, who in standby.answered()} == {"standby"}
    [problem] = check(sharded.dsn)
    assert problem.where == f"reader {place_of(gone)}"
    assert farebox("shards", "reader", gone, "--forget", dsn=sharded.dsn).code == 0
    assert "no reader is known" in farebox("shards", "reader", gone, "--forget", dsn=sharded.dsn).err
    reader = sharded.server.dsn(standby.reader)
    with psycopg.connect(reader) as conn:
        conn.execute("update farebox.partitions set shard = 2 where partition = %s", [partition])
    told_so = Problem(f"reader {place_of(reader)}", "its map is not the router's: farebox shards migrate")
    assert check(sharded.dsn) == [told_so]
    assert farebox(
        "shards", "reader", reader,
        *(f"{name}={standby.replica.dsn(database)}" for name, database in sharded.names.items()),
        dsn=sharded.dsn,
    ).code == 0  # fmt: skip
    assert check(sharded.dsn) == []


def test_the_shards_stand_in_for_standbys_that_are_gone(
    standby: Standby,
    connect: Call,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("farebox._replica.REST_SECONDS", 0.0)
    client = standby.client(connect)
    tickets = [outcome.ticket_id for outcome in client("create_tickets", standby.payments())]
    standby.replica.catch_up()
    standby.replica.cluster.stop("immediate", seconds=120)
    assert [client("get_ticket", ticket).id for ticket in tickets] == tickets
    assert {who for _, who in standby.answered()} == {"router"}
    standby.replica.cluster.start(seconds=120)
    while ("get_ticket", "standby") not in standby.answered():
        assert client("get_ticket", tickets[0]).id == tickets[0]
