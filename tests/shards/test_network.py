"""A shard that the network parts from the router, and from who migrates."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, LiteralString
from urllib.parse import urlsplit

import psycopg
import pytest

from farebox import AsyncFarebox, DeadlineExceededError, migrate
from farebox._files import db_dir, migrations_dir
from farebox.errors import MigrationError
from farebox.shards import ShardDsn, check, init, make_reader, migrate_all
from farebox.shards._layout import place_of
from farebox.shards._setup import router_password
from tests.cli.commands import farebox
from tests.core.support import Call, Connection, create, said, violations
from tests.driver.pooler import pooled
from tests.shards.support import SHARDS, RoutedDatabase, Sharded, clone
from tests.shards.test_registry import Companies
from tests.support.proxy import Proxy, proxy_to
from tests.support.servers import Farm, Server


class Parted(Sharded):
    """Everybody reaches shard `two` through a proxy."""

    def __init__(self, server: Server, proxy: Proxy, *, template: str | None = None) -> None:
        self.proxy = proxy
        super().__init__(server, template=template)

    def shard_dsn(self, name: str) -> str:
        dsn = super().shard_dsn(name)
        return self.proxy.dsn(dsn) if name == "two" else dsn

    def tickets(self, name: str) -> int:
        """So many there are on that shard, asked without the proxy."""
        with psycopg.connect(super().shard_dsn(name)) as conn:
            [count] = conn.execute("select count(*) from farebox.tickets").fetchone() or [0]
            return int(count)


@pytest.fixture(scope="module")
def parted_server(sharded_server: Sharded) -> Iterator[Parted]:
    server = sharded_server.server
    with proxy_to(server.dsn("postgres")) as proxy:
        sharded = Parted(server, proxy)
        yield sharded
        sharded.drop()


@pytest.fixture
def parted(parted_server: Parted) -> Iterator[Parted]:
    yield parted_server
    parted_server.proxy.go_on()
    parted_server.clean()


@pytest.fixture
def migrated(sharded_server: Sharded) -> Iterator[Parted]:
    """The same, of databases in which migrations are noted."""
    server = sharded_server.server
    template = f"migrated_{sharded_server.suffix}"
    server.create_database(template, tap=None)
    migrate.apply(server.dsn(template))
    with proxy_to(server.dsn("postgres")) as proxy:
        sharded = Parted(server, proxy, template=template)
        clone(server, f"reads_{sharded.suffix}", template)
        yield sharded
        sharded.drop()
    server.drop_database(template)


@pytest.fixture
def companies(parted: Parted) -> Iterator[Companies]:
    parted.wait_until_seen()
    database = RoutedDatabase(parted)
    yield Companies(database)
    database.disconnect()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_parted_in_the_middle_of_a_call_and_back(parted: Parted, companies: Companies) -> None:
    """First nothing passes, then connections break; the others' part of that call is `created` all the same.

    Seen to fail (`duplicate`) with `p_again` of `_shard_create_tickets` recognising nothing.
    """
    conn = companies.db.connect(autocommit=True)
    batches = [[companies.pay(shard, parted.payment_at("one")) for shard in SHARDS] for _ in range(4)]
    assert said(create(conn, *batches[0])) == ["created"] * 3

    parted.proxy.hang()
    call = Call(lambda: create(conn, *batches[1]))
    until(lambda: (parted.tickets("one"), parted.tickets("three")) == (2, 2))
    other = companies.db.connect(autocommit=True)
    assert said(create(other, batches[2][0], batches[2][2])) == ["created"] * 2
    parted.proxy.refuse()
    assert said(call.result()) == ["created", "shard_unavailable", "created"]
    assert said(create(other, *batches[3])) == ["created", "shard_unavailable", "created"]

    parted.proxy.go_on()
    parted.proxy.accept()
    parted.wait_until_seen()
    for batch in batches[1:]:
        assert said(create(conn, *batch)) == ["duplicate", "created", "duplicate"]
    assert violations(companies.db) == []


def have_tickets(conn: Connection, batch: list[dict[str, Any]]) -> bool:
    return all(outcome.ticket_id is not None for outcome in create(conn, *batch))


def test_a_pooler_beside_the_router_ends_what_nobody_answers(
    parted: Parted, companies: Companies, farm: Farm
) -> None:
    """The guide's way out: PgBouncer's `query_timeout`.

    In transaction mode; session mode was seen to do the same. Seen to fail (the call does not come back)
    without `query_timeout`.
    """
    conn = companies.db.connect(autocommit=True)
    with psycopg.connect(parted.dsn) as router:
        login = f"{parted.layout.login}:{router_password(router)}@"
    direct = parted.shard_dsn("two")
    with pooled(
        farm,
        f"postgresql://{login}{direct.rpartition('@')[2]}",
        pool_mode="transaction",
        query_timeout="0.5",
        server_connect_timeout=1,
        server_login_retry="0.3",
    ) as via:
        shards = [f"{name}={parted.shard_dsn(name)}" for name in SHARDS]
        place = urlsplit(via)
        shards[1] += f" via host={place.hostname} port={place.port}"
        assert farebox("shards", "init", *shards, dsn=parted.dsn).code == 0
        batches = [[companies.pay(name, parted.payment_at("one")) for name in SHARDS] for _ in range(3)]
        assert said(create(conn, *batches[0])) == ["created"] * 3
        parted.proxy.hang()
        for batch in batches[1:]:
            assert said(create(conn, *batch)) == ["created", "shard_unavailable", "created"]
        with pytest.raises(psycopg.errors.CannotConnectNow, match="a shard is not available"):
            conn.execute("select farebox.company_summary(%s)", [companies.ids["two"]])
        parted.proxy.go_on()
        parted.wait_until_seen()
        # The pooler looks again a moment later. What was on its way to the shard may have come through.
        batch = batches[1] + batches[2]
        until(partial(have_tickets, conn, batch))
        assert [parted.tickets(name) for name in SHARDS] == [3, 3, 3]
        assert violations(companies.db) == []
        assert check(parted.dsn) == []
        # And without it again.
        init(parted.dsn, [ShardDsn(name, parted.shard_dsn(name)) for name in SHARDS])


async def test_where_nothing_passes_callers_give_up_and_others_do_not_wait(
    parted: Parted, companies: Companies
) -> None:
    lost, other = (companies.pay(shard, parted.payment_at("one")) for shard in ("two", "three"))
    async with AsyncFarebox(parted.dsn) as client:
        await client.create_ticket(companies.pay("two", parted.payment_at("one")))
        parted.proxy.hang()
        with pytest.raises(DeadlineExceededError):
            await client.create_ticket(lost, timeout=0.5)
        assert (await client.create_ticket(other)).outcome == "created"
        parted.proxy.go_on()
        # Whether the first call came through after all depends on who is faster; there is one ticket.
        assert (await client.create_ticket(lost)).ticket_id is not None
    assert [parted.tickets(name) for name in SHARDS] == [0, 2, 1]
    assert violations(companies.db) == []


def test_a_migration_that_cannot_reach_a_shard_goes_on_there(
    migrated: Parted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old and new work together meanwhile; each database gets its own functions again on top of the new."""
    companies = Companies(RoutedDatabase(migrated))
    reads = f"reads_{migrated.suffix}"
    reader = migrated.server.dsn(reads)
    make_reader(migrated.dsn, reader, [ShardDsn(name, migrated.shard_dsn(name)) for name in SHARDS])
    release = tmp_path / "migrations"
    shutil.copytree(migrations_dir(), release)
    changed = [(db_dir() / f"functions/{name}.sql").read_text() for name in ("_own_requests", "get_ticket")]
    up = "\n".join(text.replace("create function", "create or replace function") for text in changed)
    (release / "0099.change-functions.sql").write_text(up)
    (release / "0099.change-functions.rollback.sql").write_text("select 1;")
    monkeypatch.setattr("farebox._migration_files.migrations_dir", lambda: release)
    conn = companies.db.connect(autocommit=True)

    def sell() -> list[str]:
        return said(
            create(conn, *(companies.pay(shard, migrated.payment_at("one")) for shard in ("one", "three")))
        )

    migrated.proxy.refuse()
    done = migrate_all(migrated.dsn)
    assert next(done).applied == ["0099.change-functions"]
    with pytest.raises(MigrationError, match=r"^two: .*\(done: one; the others are as they were\)") as raised:
        next(done)
    assert raised.value.hint is not None
    ran = farebox("shards", "migrate", "--json", dsn=migrated.dsn)
    assert (ran.code, [row["database"] for row in ran.rows]) == (3, ["one"])
    assert "two: " in ran.err
    assert "farebox shards migrate again" in ran.err
    assert sell() == ["created"] * 2

    migrated.proxy.accept()
    migrated.wait_until_seen()
    assert sell() == ["created"] * 2
    assert [problem.where for problem in check(migrated.dsn)] == ["versions"]
    assert [(row.name, row.applied) for row in migrate_all(migrated.dsn)] == [
        ("one", []),
        ("two", ["0099.change-functions"]),
        ("three", ["0099.change-functions"]),
        (f"the reader {place_of(reader)}", ["0099.change-functions"]),
        ("router", ["0099.change-functions"]),
    ]
    assert check(migrated.dsn) == []
    assert sell() == ["created"] * 2
    functions: LiteralString = (
        "select position('own_partitions' in prosrc) > 0 from pg_proc where proname = '_own_requests'"
    )
    assert migrated.on_all(functions) == [(True,)] * 3
    with psycopg.connect(reader) as reading:
        assert len(reading.execute("select from farebox.list_companies()").fetchall()) == 3
    assert violations(companies.db) == []
    companies.db.disconnect()
    migrated.server.drop_database(reads)
