"""The guide of the SQL API tells the truth: examples print what is recorded, tables are the catalog's."""

import os
import re
import subprocess
from pathlib import Path

from tests.support.database import Database

FOLDER = Path(__file__).parents[2] / "db"
TEXT = (FOLDER / "README.md").read_text()
EXAMPLES = re.findall(r"^```sql\n(.*?)^```\n```text\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
# A row of the tables of functions: "| `one(p_a, p_b)`, `other()` | app, admin | what they do |".
ROWS = re.findall(r"^\| (`[a-z_]+\(.*?) \| ((?:(?:app|worker|admin)(?:, )?)+) \|", TEXT, re.MULTILINE)
SQL = "".join(path.read_text() for path in sorted(FOLDER.rglob("*.sql")))


def printed_by(db: Database, example: str) -> str:
    """What psql prints for these statements, errors included."""
    psql = db.server.cluster.installation.bin / "psql"
    result = subprocess.run(
        [psql, "-Xq", "-P", "pager=off", "-v", "SHOW_CONTEXT=never", db.dsn],
        input=example,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env=os.environ | {"PGCLIENTENCODING": "UTF8"},
    )
    return "\n".join(line.rstrip() for line in result.stdout.rstrip().splitlines())


def test_examples_print_what_is_recorded(db: Database) -> None:
    assert len(EXAMPLES) == TEXT.count("```sql") > 0
    for example, recorded in EXAMPLES:
        assert printed_by(db, example) == recorded.rstrip()


def test_tables_of_functions_are_those_of_the_catalog(db: Database) -> None:
    documented: dict[str, tuple[list[str], list[str]]] = {}
    for calls, roles in ROWS:
        for name, arguments in re.findall(r"`([a-z_]+)\((.*?)\)`", calls):
            assert name not in documented, name
            documented[name] = (re.findall(r"\w+", arguments), sorted(roles.split(", ")))
    existing = {
        name: (arguments[:inputs], sorted(roles))
        for name, arguments, inputs, roles in db.execute(
            "select p.proname::text, coalesce(p.proargnames, '{}'), p.pronargs, array("
            "   select r.name from unnest(array['app', 'worker', 'admin']) as r(name)"
            "   where has_function_privilege('farebox_' || r.name, p.oid, 'execute'))"
            " from pg_catalog.pg_proc as p"
            " where p.pronamespace = 'farebox'::regnamespace and not starts_with(p.proname, '_')"
        )
    }
    assert documented == existing


def test_every_reason_is_told() -> None:
    reasons = set(
        re.findall(
            r"then '([a-z_]+_(?:invalid|unavailable|not_found|suspended|inactive|mismatch|cancelled|expired"
            r"|exhausted|taken|below_used))'",
            SQL,
        )
    )
    assert reasons
    assert {reason for reason in reasons if reason not in TEXT} == set()


def test_every_sqlstate_of_ours_is_told() -> None:
    # TK000 never leaves create_tickets.
    states = set(re.findall(r"errcode = '(TK\d{3})'", SQL))
    assert states
    assert states - {"TK000"} == set(re.findall(r"`(TK\d{3})`", TEXT))
