"""What goes wrong ends with the documented code, one clear message and no secret in it."""

import json
from pathlib import Path

import pytest

from farebox.cli.output import EXIT_CODES_HELP, Exit
from farebox.cli.session import shown_dsn
from tests.cli.commands import farebox, run
from tests.support.database import Database

NOWHERE = "postgresql://someone:s3cr3t@127.0.0.1:1/farebox?connect_timeout=2"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder without an embedded server in it."""
    monkeypatch.setenv("FAREBOX_HOME", str(tmp_path))
    return tmp_path


def test_without_a_database_the_way_to_one_is_told(home: Path) -> None:
    ran = farebox("verify")
    assert ran.code == Exit.DATABASE
    assert "farebox up" in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("option", [True, False])
def test_an_unreachable_database_ends_with_three(option: bool) -> None:
    ran = farebox("verify", dsn=NOWHERE) if option else farebox("verify", env={"FAREBOX_DSN": NOWHERE})
    assert ran.code == Exit.DATABASE
    assert "hint:" in ran.err
    assert "s3cr3t" not in ran.out + ran.err


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://someone:s3cr3t@[bad/farebox",
        "host=127.0.0.1 password=s3cr3t nonsense",
        "host=127.0.0.1 pasword=s3cr3t",
        "postgresql://someone:pa@s3cr3t@127.0.0.1:1/farebox?connect_timeout=2",
        "s3cr3t",
    ],
)
@pytest.mark.parametrize("command", ["verify", "migrate", "status", "demo"])
def test_a_broken_dsn_is_never_quoted(dsn: str, command: str) -> None:
    ran = farebox(command, dsn=dsn)
    assert ran.code == Exit.DATABASE
    assert "s3cr3t" not in ran.out + ran.err
    assert "Traceback" not in ran.err


def test_a_database_that_is_not_migrated_ends_with_three_and_says_migrate(blank_db: Database) -> None:
    ran = farebox("verify", dsn=blank_db.dsn)
    assert ran.code == Exit.DATABASE
    assert "farebox migrate" in ran.err


def test_a_login_without_the_right_ends_with_four(db: Database) -> None:
    ran = farebox("company", "list", dsn=db.login())
    assert ran.code == Exit.DENIED
    assert "farebox_admin" in ran.err


def test_an_app_login_creates_but_does_not_administer(db: Database) -> None:
    dsn = db.login("farebox_app")
    company = db.company()
    payment = json.dumps(db.payment(company, db.route(company)))
    assert farebox("create", dsn=dsn, stdin=payment).code == Exit.OK
    assert farebox("company", "add", "--name", "X", dsn=dsn).code == Exit.DENIED
    assert farebox("company", "add", "--name", "X", dsn=db.login("farebox_admin")).code == Exit.OK


def test_with_json_an_error_is_one_object_on_stderr() -> None:
    ran = farebox("verify", "--json", dsn=NOWHERE)
    assert ran.out == ""
    error = json.loads(ran.err)
    assert error["exit_code"] == Exit.DATABASE
    assert set(error["error"]) == {"message", "hint", "sqlstate"}


def test_with_json_a_warning_is_an_object_too(tmp_path: Path) -> None:
    path = tmp_path / "payments.jsonl"
    path.write_text("{}\n")
    ran = farebox("import", path, "--json", dsn=NOWHERE)
    warning, error = map(json.loads, ran.err.splitlines())
    assert "run it again" in warning["warning"]
    assert error["exit_code"] == Exit.DATABASE


@pytest.mark.parametrize(
    "args",
    [
        ["nonsense"],
        ["import"],
        ["verify", "--nonsense"],
        ["route", "list", "no-uuid"],
        ["company", "add"],
        ["--nonsense", "verify"],
    ],
)
def test_wrong_usage_ends_with_two(args: list[str]) -> None:
    assert farebox(*args).code == Exit.USAGE
    ran = farebox(*args, "--json")
    assert (ran.code, ran.out) == (Exit.USAGE, "")
    error = json.loads(ran.err)
    assert error["exit_code"] == Exit.USAGE
    assert error["error"]["hint"].startswith("farebox ")


def test_help_documents_every_exit_code() -> None:
    text = farebox("--help").out
    assert all(f"    {int(code)} " in text for code in Exit)
    assert len(EXIT_CODES_HELP.splitlines()) == len(Exit) + 2


def test_a_real_process_ends_without_a_traceback_too(home: Path) -> None:
    ran = run("verify", dsn=NOWHERE)
    assert ran.code == Exit.DATABASE
    assert ran.err.startswith("error: ")
    assert "s3cr3t" not in ran.out + ran.err
    assert "\x1b" not in ran.err


@pytest.mark.parametrize(
    ("dsn", "shown"),
    [
        ("postgresql://u:p@h:5/d", "user=u dbname=d host=h port=5"),
        ("host=h password=p sslpassword=q dbname=d", "host=h dbname=d"),
        ("password='", "(not a valid connection string)"),
    ],
)
def test_connection_strings_are_shown_without_secrets(dsn: str, shown: str) -> None:
    assert sorted(shown_dsn(dsn).split()) == sorted(shown.split())
