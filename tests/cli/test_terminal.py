"""On a terminal: progress and colours. Anywhere else: neither."""

import json
import os
import pty
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from tests.cli.commands import PROGRAM
from tests.support.database import Database

ESCAPE = b"\x1b["


def run_on_terminal(*args: str, dsn: str) -> bytes:
    """What the command shows on a terminal of 100 columns."""
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    with subprocess.Popen(
        [*PROGRAM, *args],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment | {"FAREBOX_DSN": dsn, "TERM": "xterm-256color", "COLUMNS": "100"},
    ):
        os.close(theirs)
        shown = b""
        # Linux ends a terminal whose other side is closed with an error instead of an end of file.
        with suppress(OSError):
            while part := os.read(ours, 65536):
                shown += part
        os.close(ours)
    return shown


@pytest.mark.parametrize("server", ["pg18"], indirect=True)
def test_an_import_shows_progress_on_a_terminal_only(db: Database, tmp_path: Path) -> None:
    company = db.company()
    route = db.route(company)
    path = tmp_path / "payments.jsonl"
    path.write_text("".join(json.dumps(db.payment(company, route)) + "\n" for _ in range(50)))
    shown = run_on_terminal("import", str(path), "--batch-size", "10", dsn=db.dsn)
    assert b"100%" in shown
    assert b"50 lines" in shown
    assert ESCAPE in shown
    piped = subprocess.run(
        [*PROGRAM, "import", str(path)],
        capture_output=True,
        env=os.environ | {"FAREBOX_DSN": db.dsn},
        check=True,
    )
    assert ESCAPE not in piped.stdout + piped.stderr
    assert piped.stderr == b""


@pytest.mark.parametrize("server", ["pg18"], indirect=True)
def test_ids_stay_whole_on_a_narrow_terminal(db: Database) -> None:
    company = str(db.company())
    assert company.encode() in run_on_terminal("company", "list", dsn=db.dsn)
