"""`farebox bench`: every scenario runs, says what it found, fails when it was wrong, leaves nothing behind.

Small, and without a word about time: speed is measured in benchmarks, not here.
"""

from __future__ import annotations

import json
import os
import signal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest
from hdrh.histogram import HdrHistogram
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from farebox.bench import calling
from farebox.bench.place import PREFIX, Place
from farebox.bench.report import Report
from tests.cli.commands import farebox, run, start
from tests.support.database import Database
from tests.support.servers import Server

ALLOW = "--even-if-not-durable"
SMALL = ("--batch", 20, "--rows", 100, "--rounds", 1)

SCENARIOS: dict[str, tuple[object, ...]] = {
    "create": ("create", *SMALL, "--coded", 0.5, "--floor"),
    "burst": ("burst", "--callers", "50,200", "--rounds", 1),
    "steady": ("steady", "--rate", 200, "--duration", "2s", "--filled", 500),
    "duplicates": ("duplicates", *SMALL, "--share", 0.3),
    "hot-code": ("hot-code", *SMALL, "--connections", 4),
    "conflict-mix": ("conflict-mix", *SMALL),
    "queue": ("queue", *SMALL),
    "growth": ("growth", *SMALL, "--sizes", "0,500", "--never-analysed"),
    "many-companies": ("many-companies", *SMALL, "--companies", "1,10,30"),
}


def databases(server: Server) -> set[str]:
    with server.connect() as conn:
        return {name for (name,) in conn.execute("select datname from pg_database")}


def roles(server: Server) -> set[str]:
    with server.connect() as conn:
        return {name for (name,) in conn.execute("select rolname from pg_roles")}


def scenario(db: Database, *args: object) -> dict[str, Any]:
    ran = farebox("bench", *args, "--json", ALLOW, dsn=db.dsn)
    assert ran.code == 0, ran.err
    document: dict[str, Any] = ran.document
    return document


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_runs_and_its_invariants_hold(db: Database, name: str) -> None:
    found = scenario(db, *SCENARIOS[name])
    assert found["scenario"] == name
    assert found["ok"] is True
    assert found["violations"] == []
    assert {check["ok"] for check in found["checks"]} == {True}
    assert any(check["what"] == "tickets in the table" and check["found"] > 0 for check in found["checks"])
    assert found["lines"]
    assert all(line["median"] > 0 for line in found["lines"])
    for latencies in found["latencies"].values():
        histogram = HdrHistogram.decode(latencies["hdrhistogram"].encode())
        assert histogram.get_total_count() == latencies["count"] > 0
    environment = found["environment"]
    assert environment["server_version"].startswith(str(db.server.major))
    assert environment["durability"].startswith("NOT DURABLE: ")
    assert environment["settings"]["shared_buffers"] == "128MB"
    assert environment["client_cores"] == os.cpu_count()
    assert {"connections", "batch", "duplicate_share"} <= found["parameters"].keys()


def test_it_tells_people_too_and_writes_a_page_that_needs_nothing_else(db: Database, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    ran = farebox("bench", *SCENARIOS["growth"], "--html", page, ALLOW, dsn=db.dsn)
    assert ran.code == 0, ran.err
    for text in (
        "PostgreSQL ",
        "NOT DURABLE",
        "shared_buffers",
        "at 500, never analysed",
        "all invariants hold",
    ):
        assert text in ran.out
    tags: list[str] = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags.append(tag)
            assert tag != "script" or not dict(attrs).get("src")
            assert tag not in ("img", "link", "iframe")
            assert not any(
                (value or "").startswith(("http:", "https:", "//"))
                for name, value in attrs
                if name in ("href", "src")
            )

    text = page.read_text()
    Parser().feed(text)
    assert tags.count("svg") == 2  # latencies, and the rate against the table's size; rounds are too few here
    assert "Rate against table size" in text
    assert "Latency by percentile" in text
    assert "All invariants hold." in text


@pytest.mark.parametrize("server", ["pg18"], indirect=True)
@pytest.mark.parametrize(
    ("wrong", "invariant"),
    [
        (
            "delete from farebox.tickets where id = (select id from farebox.tickets limit 1)",
            "record_has_ticket",
        ),
        ("update farebox.payment_codes set used_tickets = used_tickets + 1", "code_counter_is_exact"),
    ],
)
def test_a_wrong_run_fails_however_fast(
    db: Database, monkeypatch: pytest.MonkeyPatch, wrong: str, invariant: str
) -> None:
    verify = Report.verify

    def verify_after(self: Report, dsn: str, **options: Any) -> None:
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(wrong.encode())
        verify(self, dsn, **options)

    monkeypatch.setattr(Report, "verify", verify_after)
    ran = farebox("bench", "create", *SMALL, "--json", ALLOW, dsn=db.dsn)
    assert ran.code == 1
    assert ran.document["ok"] is False
    assert invariant in {violation["invariant"] for violation in ran.document["violations"]}
    shown = farebox("bench", "create", *SMALL, ALLOW, dsn=db.dsn)
    assert shown.code == 1
    assert invariant in shown.err
    assert "all invariants hold" not in shown.out


@pytest.mark.parametrize("server", ["pg18"], indirect=True)
def test_tickets_that_are_missing_altogether_are_noticed(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole, with their records: no invariant of the database is broken, only the count tells."""
    verify = Report.verify

    def verify_after(self: Report, dsn: str, **options: Any) -> None:
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute("truncate farebox.tickets, farebox.transactions")
        verify(self, dsn, **options)

    monkeypatch.setattr(Report, "verify", verify_after)
    ran = farebox("bench", "create", *SMALL, "--json", ALLOW, dsn=db.dsn)
    assert ran.code == 1
    assert ran.document["violations"] == []
    assert [check["what"] for check in ran.document["checks"] if not check["ok"]] == ["tickets in the table"]


@pytest.mark.parametrize("server", ["pg18"], indirect=True)
@pytest.mark.parametrize("who", ["server", "client"])
def test_a_stall_counts_against_every_call_it_delays(db: Database, who: str) -> None:
    """For a second nothing goes on: the calls due then have waited, not only the few on the connections.

    Seen to fail when a latency counts from when its call was made (client), and to hang when a call is made
    only after the one before it was answered (server).
    """
    rate = 200
    with Place(db.dsn) as place, psycopg.connect(place.dsn) as other:

        def tell(number: int) -> None:
            if who == "client":
                other.execute("select pg_sleep(case when %s = 0 then 1 else 0 end)", [number])
            elif number == 0:
                other.execute("lock table farebox.tickets in exclusive mode")
            else:
                other.rollback()

        report = calling.steady(place, calling.Client(2, 10), tell, rate=rate, seconds=2)
    assert report.ok
    histogram = report.latencies["a call, since it was due"].document()["hdrhistogram"]
    slow = [
        item.count_added_in_this_iter_step
        for item in HdrHistogram.decode(histogram.encode()).get_recorded_iterator()
        if item.value_iterated_to > 300_000
    ]
    assert sum(slow) > rate // 2


def test_it_refuses_what_can_lose_tickets(own_server: Server) -> None:
    """The server is durable; the connection must be too."""
    dsn = own_server.dsn("postgres")
    ran = farebox("bench", "create", *SMALL, dsn=f"{dsn}?options=-csynchronous_commit%3Doff")
    assert ran.code == 3
    assert "synchronous_commit = off" in ran.err
    assert not any(name.startswith(PREFIX) for name in databases(own_server))


# What a scenario does when it is stopped, and by what: its options, and how its sessions begin then.
MOMENTS: dict[signal.Signals, dict[tuple[object, ...], str]] = {
    signal.SIGINT: {
        ("create",): "",  # still making the schema
        ("steady", "--duration", "1h"): "select * from farebox.create_ticket",
        ("growth", "--sizes", "900000"): "\nwith places as materialized",
    },
    signal.SIGTERM: {
        ("create", "--rounds", 1000): "select * from farebox.create_tickets(",
        ("steady", "--duration", "1h"): "select * from farebox.create_ticket",
        ("queue", "--rounds", 1000): "select taken, created",
    },
}


@pytest.mark.parametrize("number", MOMENTS)
@pytest.mark.parametrize("own_server", ["pg18"], indirect=True)
def test_nothing_is_left_behind_by_a_run_that_is_stopped(own_server: Server, number: signal.Signals) -> None:
    """Neither databases nor roles, whatever it was doing."""
    before = databases(own_server), roles(own_server)
    watch = Database(own_server, "postgres")
    for args, query in MOMENTS[number].items():
        process = start("bench", *args, dsn=own_server.dsn("postgres"))
        watch.wait_until(
            "select count(*) > 0 from pg_stat_activity"
            " where datname like 'farebox_bench_%%' and starts_with(query, %s)",
            [query],
        )
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130, err.decode()
        assert b"Traceback" not in err
        assert (databases(own_server), roles(own_server)) == before
    watch.disconnect()


@pytest.mark.parametrize("own_server", ["pg15", "pg18"], indirect=True)
def test_a_login_that_may_not_create_databases_measures_in_an_empty_one(own_server: Server) -> None:
    own_server.create_database("lent", tap=None)
    lent = Database(own_server, "lent")
    login = lent.login()
    name = str(conninfo_to_dict(login)["user"])
    statements: tuple[LiteralString, ...] = (
        "alter role {} createrole",
        "grant create on database lent to {}",
    )
    for statement in statements:
        lent.execute(sql.SQL(statement).format(sql.Identifier(name)))
    before = roles(own_server)
    ran = farebox("bench", "create", *SMALL, "--floor", "--json", dsn=login)
    assert ran.code == 0, ran.err
    assert ran.document["ok"] is True
    assert lent.execute("select nspname from pg_namespace where nspname like 'farebox%'") == []
    assert roles(own_server) == before
    # Growth needs several.
    assert farebox("bench", "growth", *SMALL, dsn=login).code == 2
    assert lent.execute("select nspname from pg_namespace where nspname like 'farebox%'") == []
    # A database in use is none of its business.
    lent.execute("create schema farebox")
    refused = farebox("bench", "create", *SMALL, dsn=login)
    assert refused.code == 4
    assert "has a schema farebox" in refused.err
    lent.close()


@pytest.mark.parametrize(
    "args", [("steady", "--duration", "soon"), ("burst", "--callers", "0"), ("growth", "--sizes", "1,x")]
)
def test_wrong_options_are_told(args: tuple[str, ...]) -> None:
    assert farebox("bench", *args).code == 2


@pytest.mark.parametrize("part", ["hdrh", "pygal"])
def test_it_says_how_to_get_the_parts_it_needs(part: str, tmp_path: Path) -> None:
    (tmp_path / f"{part}.py").write_text(f"raise ModuleNotFoundError('none', name={part!r})")
    ran = run("bench", "create", "--json", env={"PYTHONPATH": str(tmp_path)}, dsn="postgresql://nowhere/x")
    assert ran.code == 5
    assert json.loads(ran.err)["error"]["hint"] == "pip install 'farebox[bench]'"
