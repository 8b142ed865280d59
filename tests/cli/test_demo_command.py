"""`farebox demo`, `up` and `down`: from nothing to a checked morning."""

import json
from pathlib import Path

import pytest

from farebox.server import EmbeddedServer
from tests.cli.commands import farebox, run
from tests.support.database import Database
from tests.support.servers import Farm

PAYMENTS = ("--payments", "1500")


def test_the_demo_runs_on_an_empty_database_and_again(blank_db: Database, tmp_path: Path) -> None:
    first = farebox("demo", *PAYMENTS, "--seed", 1, "--out", tmp_path, "--json", dsn=blank_db.dsn)
    assert first.code == 0
    document = first.document
    assert document["ok"] is True
    assert document["surprises"] == document["violations"] == []
    assert document["import"]["created"] > 1000
    assert document["import_again"]["created"] == 0
    assert document["queued"]["tickets"] == 1500
    assert document["rescued"] > 0

    same = farebox("demo", *PAYMENTS, "--seed", 1, "--out", tmp_path, "--json", dsn=blank_db.dsn)
    assert same.code == 0
    assert same.document["import"]["created"] == 0

    new = farebox("demo", *PAYMENTS, "--seed", 2, "--out", tmp_path, "--json", dsn=blank_db.dsn)
    assert new.code == 0
    assert new.document["surprises"] == []
    assert new.document["import"]["created"] > 1000


def test_the_demo_tells_people_what_happened_and_how_to_go_on(blank_db: Database, tmp_path: Path) -> None:
    ran = farebox("demo", *PAYMENTS, "--out", tmp_path, dsn=blank_db.dsn)
    assert ran.code == 0
    for text in (
        "phone_invalid",
        "code_exhausted",
        "gross SLE",
        "all invariants hold",
        "psql ",
        "a second",
        "stored",
    ):
        assert text in ran.out


def test_the_demo_ends_with_one_when_verify_finds_something(blank_db: Database, tmp_path: Path) -> None:
    assert farebox("demo", *PAYMENTS, "--seed", 1, "--out", tmp_path, dsn=blank_db.dsn).code == 0
    blank_db.execute(
        "update farebox.payment_codes set used_tickets = used_tickets - 1 where used_tickets > 0"
    )
    ran = farebox("demo", *PAYMENTS, "--seed", 1, "--out", tmp_path, "--json", dsn=blank_db.dsn)
    assert ran.code == 1
    assert ran.document["violations"]


def test_the_demo_keeps_out_of_a_database_in_use(db: Database, tmp_path: Path) -> None:
    company = db.company()
    ran = farebox("demo", *PAYMENTS, "--out", tmp_path, dsn=db.dsn)
    assert ran.code == 2
    assert "--force" in ran.err
    assert db.execute("select id from farebox.companies") == [(company,)]
    assert not any(tmp_path.iterdir())


def test_up_says_when_the_other_commands_go_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who would be sent to `farebox migrate` there would migrate another database than this."""

    def up(_: EmbeddedServer) -> str:
        return "postgresql://postgres@127.0.0.1/farebox"

    monkeypatch.setattr(EmbeddedServer, "up", up)
    assert "farebox migrate" in farebox("up").err
    ran = farebox("up", env={"FAREBOX_DSN": "postgresql://elsewhere/farebox"})
    assert (ran.code, "FAREBOX_DSN is set" in ran.err, "farebox migrate" in ran.err) == (0, True, False)


def test_the_embedded_server_carries_the_demo(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAREBOX_HOME", str(farm.folder("demo")))
    try:
        up = run("up", "--json")
        assert up.code == 0
        assert "password" not in json.loads(up.out)["dsn"]
        demo = run("demo", "--payments", 800)
        assert demo.code == 0
        assert "all invariants hold" in demo.out
        assert run("verify").code == 0
    finally:
        down = run("down", "--json")
    assert down.document == {"stopped": True}
    assert run("down", "--json").document == {"stopped": False}
    assert run("verify").code == 3
