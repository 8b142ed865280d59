# ruff: noqa: E501 - sets stay on one line
"""The guides say what is true: their commands exist, their restore restores, their alerts are those that there are."""

import json
import os
import re
import subprocess
from pathlib import Path

import click
import pytest

from farebox import migrate
from farebox.cli.main import cli
from farebox.doctor import CHECKS
from tests.cli.commands import farebox
from tests.operate.test_rules import ALERTS
from tests.support.database import Database

REPO = Path(__file__).parents[2]
OPERATIONS = REPO / "driver/OPERATIONS.md"
MIGRATIONS = REPO / "migrations/README.md"
SOURCES = [
    OPERATIONS,
    MIGRATIONS,
    *(REPO / "driver/farebox/doctor").glob("*.py"),
    REPO / "driver/farebox/monitoring/rules.yml",
]


def commands_in(text: str) -> list[list[str]]:
    """What follows `farebox` where a command is told: in code, at a prompt, in a fix."""
    told = re.findall(
        r"`([^`\n]+)`|^(?:\$ )?(farebox .*)$|(?:fix: +|; |\")(farebox [^\";]*)", text, re.MULTILINE
    )
    code = "\n".join("".join(groups) for groups in told)
    return [match.split() for match in re.findall(r"(?<![-\w./@])farebox ((?:-{0,2}[a-z][\w-]* ?)+)", code)]


@pytest.mark.parametrize("file", SOURCES, ids=lambda path: path.name)
def test_every_command_that_is_told_exists(file: Path) -> None:
    for words in commands_in(file.read_text()):
        command: click.Command = cli
        names = list(words)
        while isinstance(command, click.Group) and names and not names[0].startswith("-"):
            assert names[0] in command.commands, f"{file.name}: farebox {' '.join(words)}"
            command = command.commands[names.pop(0)]
        options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        for word in names:
            if word.startswith("--"):
                assert word in options, f"{file.name}: farebox {' '.join(words)}"


def test_commands_are_found_in_the_guides_at_all() -> None:
    told = commands_in(OPERATIONS.read_text())
    assert len(told) > 30
    assert ["unapplied", "apply"] in told
    assert ["maintain", "--only", "expire"] in told


def test_every_alert_of_the_guide_is_one_and_every_check_too() -> None:
    text = OPERATIONS.read_text()
    assert set(re.findall(r"`(Farebox[A-Z]\w+)`", text)) <= set(ALERTS)
    names = {check.name for check in CHECKS}
    for listed in re.findall(r"checks? ((?:`[a-z ]+`(?:,| and)? ?)+)", text):
        assert set(re.findall(r"`([a-z ]+)`", listed)) <= names, listed


def test_a_dump_restores_to_what_it_was(blank_db: Database) -> None:
    """The commands of the guide, on one server: into a second database of it."""
    migrate.apply(blank_db.dsn)
    company = blank_db.company()
    route = blank_db.route(company)
    batch = [blank_db.payment(company, route, payment_code=blank_db.code(company, 30)) for _ in range(20)]
    blank_db.execute("select count(*) from farebox.create_tickets(%s::json)", [json.dumps(batch)])
    server = blank_db.server
    restored = Database(server, f"{blank_db.name}_restored")
    server.create_database(restored.name, tap=None)
    dump = server.cluster.data_dir.parent / f"{blank_db.name}.dump"
    folder = server.cluster.installation.bin
    try:
        for program, *words in (
            ["pg_dump", "-Fc", "-f", str(dump), "-d", blank_db.dsn],
            ["pg_restore", "--exit-on-error", "-d", restored.dsn, str(dump)],
        ):
            done = subprocess.run(
                [folder / program, *words], env=os.environ, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
        assert farebox("status", "--check", dsn=restored.dsn).code == 0
        assert farebox("verify", dsn=restored.dsn).code == 0
        again = restored.execute("select outcome from farebox.create_tickets(%s::json)", [json.dumps(batch)])
        assert again == [("duplicate",)] * 20
        wrong = {row["check"] for row in farebox("doctor", "--json", "--quiet", dsn=restored.dsn).rows}
        # What the test servers leave off on purpose, and nothing else.
        assert wrong <= {
            "durability",
            "memory",
            "wal",
            "autovacuum",
            "extensions",
            "connections",
            "locks",
            "transactions",
            "snapshots",
        }
    finally:
        dump.unlink(missing_ok=True)
        restored.close()
