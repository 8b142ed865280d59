"""Every file of pgtap/ holds on every version, run here one by one and by pg_prove all together."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.database import Database

FOLDER = Path(__file__).parents[1] / "pgtap"
FILES = sorted(FOLDER.rglob("*.sql"))

_PLAN = re.compile(r"1\.\.(\d+)")
_RESULT = re.compile(r"(not )?ok (\d+)\b(.*)")


def _broken_promises(tap: str) -> list[str]:
    """What is wrong with this TAP: failures, and tests that were not run or not counted."""
    wrong: list[str] = []
    planned: list[int] = []
    numbers: list[int] = []
    for line in tap.splitlines():
        if plan := _PLAN.fullmatch(line.strip()):
            planned.append(int(plan[1]))
        elif result := _RESULT.match(line.strip()):
            numbers.append(int(result[2]))
            if result[1] or re.search(r"# *(skip|todo)", result[3], re.IGNORECASE):
                wrong.append(line.strip())
    if len(planned) != 1:
        wrong.append(f"{len(planned)} plans instead of one")
    elif numbers != list(range(1, planned[0] + 1)) or not numbers:
        wrong.append(f"planned 1..{planned[0]}, ran {numbers}")
    return wrong


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.relative_to(FOLDER).as_posix())
def test_file(tap_db: Database, file: Path) -> None:
    psql = tap_db.server.cluster.installation.bin / "psql"
    result = subprocess.run(
        [psql, "-XAtq", "-v", "ON_ERROR_STOP=1", "-f", file, tap_db.dsn],
        capture_output=True,
        text=True,
        check=False,
    )
    # What held is left out of the report.
    report = [line for line in f"{result.stdout}\n{result.stderr}".splitlines() if not line.startswith("ok ")]
    assert result.returncode == 0, "\n".join(report)
    assert _broken_promises(result.stdout) == [], "\n".join(report)


def test_all_files_by_pg_prove(tap_db: Database) -> None:
    pg_prove = shutil.which("pg_prove")
    if pg_prove is None:
        pytest.skip("pg_prove is not installed (Debian: libtap-parser-sourcehandler-pgtap-perl)")
    psql = tap_db.server.cluster.installation.bin / "psql"
    result = subprocess.run(
        [pg_prove, "--psql-bin", psql, "--dbname", tap_db.dsn, *FILES],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    assert "Result: PASS" in result.stdout


def test_each_public_function_has_a_file(db: Database) -> None:
    functions = db.execute(
        "select distinct proname from pg_catalog.pg_proc"
        " where pronamespace = 'farebox'::regnamespace and not starts_with(proname, '_')"
    )
    assert functions
    assert {name for (name,) in functions} - {file.stem for file in FILES} == set()


@pytest.mark.parametrize(
    ("tap", "complaints"),
    [
        ("1..2\nok 1\nok 2 - fine\n", 0),
        ("1..2\nok 1\nnot ok 2 - broken\n", 1),
        ("1..2\nok 1\n", 1),
        ("1..1\nok 1\nok 2\n", 1),
        ("ok 1\n", 1),
        ("1..0\n", 1),
        ("1..1\nok 1 # SKIP not here\n", 1),
        ("", 1),
    ],
)
def test_tap_is_read_strictly(tap: str, complaints: int) -> None:
    assert len(_broken_promises(tap)) == complaints
