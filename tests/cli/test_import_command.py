"""`farebox import`: thousands of dirty lines end exactly as they must, also cut off and run again."""

import csv
import gzip
import json
import signal
import stat
import sys
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from farebox import Farebox
from farebox.cli.main import cli
from farebox.demo.load import Expected, issue_codes, load_catalogue, write_rush
from farebox.demo.rush import Rush
from tests.cli.commands import Ran, farebox, run, start
from tests.support.database import Database

PAYMENTS = 2_000
OUTCOMES = ("created", "duplicate", "conflict", "rejected", "malformed")


def prepare(db: Database, path: Path, *, seed: int = 1, payments: int = PAYMENTS) -> Expected:
    """The catalogue in the database, a rush in the file; what its lines must end in."""
    rush = Rush(payments, seed)
    with Farebox(db.dsn) as client:
        load_catalogue(client)
        issue_codes(client, rush)
    return write_rush(rush, path)


def write_csv(path: Path, payments: Iterable[dict[str, Any]]) -> None:
    rows = list(payments)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def counts(expected: Expected) -> dict[str, int]:
    return {
        name: sum(count for (outcome, _), count in expected.items() if outcome == name) for name in OUTCOMES
    }


def outcome_counts(document: dict[str, Any]) -> dict[str, int]:
    return {name: document[name] for name in OUTCOMES}


def assert_sound(db: Database, tickets: int) -> None:
    """Exactly so many tickets, and everything fits together."""
    assert db.value("select count(*) from farebox.tickets") == tickets
    assert farebox("verify", dsn=db.dsn).code == 0


# -- outcomes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 7, 500, 10_000])
def test_a_dirty_rush_ends_as_the_contract_demands_at_any_batch_size(
    db: Database, tmp_path: Path, batch_size: int
) -> None:
    path = tmp_path / "rush.jsonl"
    expected = prepare(db, path, payments=PAYMENTS if batch_size > 1 else 300)
    ran = farebox("import", path, "--batch-size", batch_size, "--json", dsn=db.dsn)
    assert ran.code == 1
    document = ran.document
    assert outcome_counts(document) == counts(expected)
    reasons = Counter[str]()
    for (_, reason), count in expected.items():
        if reason:
            reasons[reason] += count
    assert document["reasons"] == reasons
    assert document["complete"] is True
    assert_sound(db, document["created"])


def test_the_same_file_again_creates_nothing(db: Database, tmp_path: Path) -> None:
    path = tmp_path / "rush.jsonl"
    expected = prepare(db, path)
    farebox("import", path, dsn=db.dsn)
    again = farebox("import", path, "--json", dsn=db.dsn).document
    assert again["created"] == 0
    assert again["lines"] == expected.total()
    assert_sound(db, counts(expected)["created"])


def test_a_file_without_fault_ends_with_zero(db: Database, tmp_path: Path) -> None:
    company = db.company()
    route = db.route(company)
    path = tmp_path / "payments.csv.gz"
    plain = tmp_path / "payments.csv"
    write_csv(plain, (db.payment(company, route) for _ in range(1200)))
    path.write_bytes(gzip.compress(plain.read_bytes()))
    assert farebox("import", path, dsn=db.dsn).code == 0
    again = farebox("import", plain, dsn=db.dsn)
    assert again.code == 0
    assert "duplicate" in again.out
    assert_sound(db, 1200)


def test_standard_input_is_a_file_too(db: Database, tmp_path: Path) -> None:
    path = tmp_path / "rush.jsonl"
    expected = prepare(db, path, payments=200)
    ran = farebox("import", "-", "--json", dsn=db.dsn, stdin=path.read_bytes())
    assert outcome_counts(ran.document) == counts(expected)


def test_columns_of_another_system_are_mapped(db: Database, tmp_path: Path) -> None:
    company = db.company()
    payment = db.payment(company, db.route(company))
    foreign = {
        ("Ref" if key == "monime_transaction_id" else "MSISDN" if key == "passenger_phone" else key): value
        for key, value in payment.items()
    } | {"Note": "x"}
    path = tmp_path / "payments.csv"
    write_csv(path, [foreign])
    options = ("--column", "monime_transaction_id=Ref", "--column", "passenger_phone=MSISDN")
    assert farebox("import", path, dsn=db.dsn).code == 2
    ran = farebox("import", path, *options, dsn=db.dsn)
    assert ran.code == 0
    assert "Note" in ran.err


def test_a_cut_off_gzip_imports_what_is_whole_and_ends_with_one(db: Database, tmp_path: Path) -> None:
    company = db.company()
    route = db.route(company)
    lines = "".join(json.dumps(db.payment(company, route)) + "\n" for _ in range(2000))
    data = gzip.compress(lines.encode())
    path = tmp_path / "cut.jsonl.gz"
    path.write_bytes(data[: len(data) // 2])
    ran = farebox("import", path, "--json", dsn=db.dsn)
    assert ran.code == 1
    assert ran.document["complete"] is False
    assert ran.document["created"] > 0
    assert "cut off" in ran.err
    path.write_bytes(data)
    assert farebox("import", path, dsn=db.dsn).code == 0
    assert_sound(db, 2000)


@pytest.mark.parametrize("name", ["missing.jsonl", "utf16.jsonl", "no-header.csv"])
def test_a_file_that_cannot_be_read_is_wrong_usage(tmp_path: Path, name: str) -> None:
    (tmp_path / "utf16.jsonl").write_text('{"a": 1}', encoding="utf-16")
    (tmp_path / "no-header.csv").write_text("1,2,3\n")
    ran = farebox("import", tmp_path / name, dsn="host=127.0.0.1 port=1")
    assert ran.code == 2
    assert ran.err.startswith("error: ")


# -- the rejects file ---------------------------------------------------------------------------------------


def test_the_rejects_file_holds_every_line_without_a_ticket_as_it_came(db: Database, tmp_path: Path) -> None:
    path, rejects_path = tmp_path / "rush.jsonl", tmp_path / "rejects.jsonl"
    expected = prepare(db, path)
    farebox("import", path, "--rejects", rejects_path, dsn=db.dsn)
    rejects: list[Any] = [json.loads(line) for line in rejects_path.read_text().splitlines()]
    assert Counter((each["outcome"], each["reason"]) for each in rejects) == {
        key: count for key, count in expected.items() if key[0] not in ("created", "duplicate")
    }
    numbers: list[int] = [each["line"] for each in rejects]
    assert numbers == sorted(numbers)
    lines = path.read_bytes().split(b"\n")
    for number, each in zip(numbers, rejects, strict=True):
        came = lines[number - 1]
        if each["outcome"] == "malformed":
            assert each["raw"] == came.decode("utf-8", "backslashreplace")
        else:
            assert each["payment"] == json.loads(came)
        if each["outcome"] == "conflict":
            assert each["differing"]
            assert each["existing_ticket_id"]


@pytest.mark.parametrize("existing", [True, False])
def test_only_its_owner_may_read_the_rejects_file(db: Database, tmp_path: Path, existing: bool) -> None:
    path, rejects_path = tmp_path / "payments.jsonl", tmp_path / "rejects.jsonl"
    path.write_text("{}\n")
    if existing:
        rejects_path.write_text("old\n" * 100)
        rejects_path.chmod(0o644)
    farebox("import", path, "--rejects", rejects_path, dsn=db.dsn)
    assert stat.S_IMODE(rejects_path.stat().st_mode) == 0o600
    assert len(rejects_path.read_text().splitlines()) == 1


def test_the_rejects_file_is_never_the_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "payments.jsonl"
    path.write_text("{}\n")
    (tmp_path / "link").symlink_to(path)
    assert farebox("import", path, "--rejects", tmp_path / "link", dsn="host=127.0.0.1 port=1").code == 2
    assert path.read_text() == "{}\n"
    with path.open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        words = ["import", "-", "--rejects", str(path), "--dsn", "host=127.0.0.1 port=1"]
        assert cli.main(words, prog_name="farebox", standalone_mode=False) == 2
    assert path.read_text() == "{}\n"


def test_no_phone_and_no_otp_is_printed(db: Database, tmp_path: Path) -> None:
    path = tmp_path / "rush.jsonl"
    prepare(db, path, payments=300)
    ran = farebox("import", path, dsn=db.dsn)
    assert "+232" not in ran.out + ran.err
    otps = {
        json.loads(line).get("monime_otp")
        for line in path.read_bytes().split(b"\n")[:50]
        if line.endswith(b"}")
    }
    assert not any(otp and len(str(otp)) == 6 and str(otp) in ran.out + ran.err for otp in otps)


# -- interruptions ------------------------------------------------------------------------------------------


def hold_the_middle(db: Database, path: Path) -> psycopg.Connection[Any]:
    """Puts one more payment into the middle of the file; a transaction holds it, so an import waits there."""
    company = db.company()
    payment = json.dumps(db.payment(company, db.route(company)))
    lines = path.read_bytes().split(b"\n")
    lines.insert(len(lines) // 2, payment.encode())
    path.write_bytes(b"\n".join(lines))
    conn = db.connect()
    [[outcome]] = conn.execute("select outcome from farebox.create_tickets(%s)", [f"[{payment}]"]).fetchall()
    assert outcome == "created"
    return conn


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT])
def test_an_import_that_was_cut_off_is_finished_by_running_it_again(
    db: Database, tmp_path: Path, signal_number: signal.Signals
) -> None:
    path = tmp_path / "rush.jsonl"
    tickets = counts(prepare(db, path))["created"] + 1
    blocker = hold_the_middle(db, path)
    process = start("import", path, "--batch-size", 50, dsn=db.dsn)
    db.wait_for_blocked(1)
    process.send_signal(signal_number)
    if signal_number == signal.SIGKILL:
        process.wait()
    # The payment is free again, and the import's to make.
    blocker.rollback()
    _, err = process.communicate()
    if signal_number == signal.SIGINT:
        assert process.returncode == 130
        assert b"run it again" in err
        assert b"Traceback" not in err
    # The server may still be busy with the batch it had: it ends by itself, with or without a commit.
    db.wait_until(
        "select count(*) = 0 from pg_catalog.pg_stat_activity"
        " where datname = current_database() and application_name like 'farebox%%'"
    )
    done = db.value("select count(*) from farebox.tickets")
    assert 0 < done < tickets

    second = run("import", path, "--json", dsn=db.dsn).document
    assert second["complete"] is True
    assert second["created"] == tickets - done
    assert_sound(db, tickets)


def test_a_server_that_goes_away_ends_the_import_with_three(own_db: Database, tmp_path: Path) -> None:
    path = tmp_path / "rush.jsonl"
    tickets = counts(prepare(own_db, path))["created"] + 1
    blocker = hold_the_middle(own_db, path)
    process = start("import", path, "--batch-size", 50, dsn=own_db.dsn)
    own_db.wait_for_blocked(1)
    own_db.server.stop()
    _, err = process.communicate()
    assert process.returncode == 3
    assert b"run it again" in err
    assert b"Traceback" not in err
    blocker.close()
    own_db.server.start()
    with suppress(psycopg.OperationalError):
        own_db.execute("select 1")  # The connection from before is lost; the next one is new.
    assert farebox("import", path, dsn=own_db.dsn).code == 1
    assert_sound(own_db, tickets)


def test_several_imports_of_one_file_at_once_create_each_ticket_once(db: Database, tmp_path: Path) -> None:
    company = db.company()
    route = db.route(company)
    path = tmp_path / "payments.jsonl"
    path.write_text("".join(json.dumps(db.payment(company, route)) + "\n" for _ in range(1500)))
    processes = [start("import", path, "--batch-size", 100, "--json", dsn=db.dsn) for _ in range(3)]
    ran = [
        Ran(each.returncode, out.decode(), err.decode())
        for each in processes
        for out, err in [each.communicate()]
    ]
    assert [each.code for each in ran] == [0, 0, 0]
    assert sum(each.document["created"] for each in ran) == 1500
    assert_sound(db, 1500)
