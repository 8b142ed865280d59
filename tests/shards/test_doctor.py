"""`farebox doctor` of a router and of its shards: what it says is true there, what it prescribes mends it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from farebox._files import db_dir
from farebox.doctor import CHECKS, Finding, Level, diagnose
from farebox.shards import ShardDsn, init
from tests.core.support import create
from tests.operate.support import found, treat
from tests.queue.support import enqueue
from tests.shards.support import SHARDS, RoutedDatabase, Sharded
from tests.shards.test_registry import Companies
from tests.support.database import Database

# Of the server that all tests share, and of databases that are not migrated but cloned.
_NOT_HERE = {
    "migrations",
    *(check.name for check in CHECKS if check.module.endswith(("_server", "_activity"))),
}


@pytest.fixture(scope="module")
def installation(sharded_server: Sharded) -> Iterator[Sharded]:
    """A router as people have it: without the foreign tables of other tests."""
    sharded = Sharded(sharded_server.server)
    yield sharded
    sharded.drop()


@pytest.fixture
def whole(installation: Sharded) -> Iterator[Sharded]:
    """Everything is as it should be; whoever spoils it mends it."""
    yield installation
    installation.clean()


def wrong(dsn: str) -> list[Finding]:
    """What is found wrong with the database."""
    return [each for each in diagnose(dsn) if each.level is not Level.OK and each.check not in _NOT_HERE]


def plain(function: str) -> bytes:
    """The function of a plain database."""
    text = (db_dir() / f"functions/{function}.sql").read_text()
    return text.replace("create function", "create or replace function").encode()


def test_a_router_and_its_shards_as_they_should_be_are_fine(whole: Sharded) -> None:
    assert wrong(whole.dsn) == []
    assert wrong(whole.shard_dsn("two")) == []
    for dsn, looks in ((whole.dsn, True), (whole.shard_dsn("two"), False)):
        assert ("shards" in {each.check for each in diagnose(dsn, quick=True)}) is looks


@pytest.mark.parametrize(
    ("where", "function", "words"),
    [
        ("router", "get_ticket", "get_ticket differs from this version's in its body"),
        ("router", "get_company", "get_company does not ask the shards"),
        ("one", "_own_requests", "_own_requests differs from this version's in its body"),
    ],
)
def test_functions_of_a_plain_database_are_found_and_not_prescribed(
    whole: Sharded, where: str, function: str, words: str
) -> None:
    """They would be the end of it: a router without tickets, or a shard that sells what is another's."""
    database = Database(whole.server, whole.router_name if where == "router" else whole.names[where])
    with database.connect() as conn:
        conn.execute(plain(function))
    [finding] = found(database.dsn, "functions")
    database.disconnect()
    init(whole.dsn, [ShardDsn(name, whole.shard_dsn(name)) for name in SHARDS])
    assert found(database.dsn, "functions") == []
    assert words in finding.message
    assert (finding.fix or "").startswith("farebox shards migrate")


def test_rights_that_a_router_must_not_give(whole: Sharded) -> None:
    database = Database(whole.server, whole.router_name)
    database.execute("grant select on farebox.tickets to farebox_app")
    [finding] = found(database.dsn, "grants")
    assert "farebox_app has select on farebox.tickets" in finding.message
    treat(database, finding)
    assert found(database.dsn, "grants") == []
    database.disconnect()


def test_a_shard_without_its_guard(whole: Sharded) -> None:
    database = Database(whole.server, whole.names["two"])
    database.execute("drop trigger companies_refuse_foreign on farebox.companies")
    [finding] = found(database.dsn, "triggers")
    treat(database, finding)
    assert found(database.dsn, "triggers") == []
    database.disconnect()


def test_shards_that_do_not_agree(whole: Sharded) -> None:
    at = whole.layout.shard("two").at
    whole.on("two", "delete from farebox.own_partitions where partition = %s", [at])
    [finding] = found(whole.dsn, "shards")
    assert f"router and shard do not agree about partitions [{at}]" in finding.message
    whole.on("two", "insert into farebox.own_partitions values (%s)", [at])
    # Who only watches is told which shards answer, no more.
    database = RoutedDatabase(whole)
    assert found(database.login("farebox_admin", "pg_monitor"), "shards") == []
    database.close()


def test_workers_are_known_where_they_are_connected(whole: Sharded) -> None:
    """To the router: its metrics count them, and a shard does not say that there are none."""
    database = RoutedDatabase(whole)
    companies = Companies(database)
    conn = database.connect(autocommit=True)
    enqueue(conn, [companies.pay("one", "p")])
    create(conn, companies.pay("two", "q", amount=0))
    [finding] = found(whole.dsn, "queue")
    assert finding.message == "1 requests are queued and no worker is connected"
    assert found(whole.shard_dsn("one"), "queue") == []
    [finding] = found(whole.dsn, "unapplied payments")
    assert "1 amount_invalid" in finding.message
    database.connect(dsn=f"{whole.dsn}?application_name=farebox%20worker%20of%20this%20test")
    assert found(whole.dsn, "queue") == []
    workers = "select labels, value from farebox.metrics_server() where metric = 'farebox_workers'"
    assert conn.execute(workers).fetchall() == [({}, 1.0)]
    database.close()
