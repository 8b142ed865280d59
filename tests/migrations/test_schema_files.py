"""``db/`` as psql and ``load_schema`` read it, and where an installed package keeps it."""

import shutil
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from farebox._files import db_dir, migrations_dir
from farebox.errors import ConfigurationError, MigrationError
from farebox.schema import MANIFEST, forgotten, load_schema, manifest
from tests.migrations.lab import Lab


@pytest.fixture
def db(tmp_path: Path) -> Path:
    copy = tmp_path / "db"
    shutil.copytree(db_dir(), copy)
    return copy


def test_psql_and_load_schema_make_the_same_database(lab: Lab) -> None:
    database = lab.database()
    program = lab.server.cluster.installation.bin / "psql"
    command = [str(program), "-X", "-q", "-1", lab.dsn(database), "-f", str(db_dir() / MANIFEST)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert lab.catalog(database) == lab.catalog_of_db_folder()


def test_a_file_that_fails_is_named_with_its_line_and_nothing_stays(lab: Lab, db: Path) -> None:
    path = db / "functions" / "create_tickets.sql"
    path.write_text(f"-- one\n-- two; ü\n{path.read_text()}\nselect no_such_column;\n")
    line = path.read_text().count("\n")
    database = lab.database()
    before = lab.catalog_and_roles(database)
    with (
        psycopg.connect(lab.dsn(database)) as conn,
        pytest.raises(
            MigrationError, match=rf"functions/create_tickets\.sql:{line}: .*no_such_column"
        ) as caught,
    ):
        load_schema(conn, db)
    assert caught.value.sqlstate == "42703"
    assert lab.catalog_and_roles(database) == before


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("\\i schema.sql", "only .ir lines"),
        ("select 1;", "only .ir lines"),
        ("\\ir schema.sql", "included twice"),
        ("\\ir no_such.sql", "no file no_such.sql"),
        ("\\ir ../outside.sql", "no file ../outside.sql"),
    ],
)
def test_a_manifest_that_psql_would_read_otherwise_is_refused(db: Path, line: str, problem: str) -> None:
    (db.parent / "outside.sql").touch()
    with (db / MANIFEST).open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(ConfigurationError, match=problem):
        manifest(db)


def test_the_manifest_includes_every_file() -> None:
    assert forgotten() == []


def test_a_file_that_the_manifest_forgot_is_told(db: Path) -> None:
    (db / "functions" / "new.sql").touch()
    assert set(forgotten(db)) - set(forgotten()) == {"functions/new.sql"}


def test_a_manifest_without_a_file_is_refused(db: Path) -> None:
    (db / MANIFEST).write_text("-- nothing yet\n")
    with pytest.raises(ConfigurationError, match="includes no file"):
        manifest(db)


def test_comments_and_empty_lines_are_allowed(db: Path) -> None:
    names = [file.name for file in manifest(db)]
    path = db / MANIFEST
    path.write_text("-- a comment\n\n\\set ON_ERROR_STOP on\n" + path.read_text().replace("\\ir ", "\\ir  "))
    assert [file.name for file in manifest(db)] == names


@pytest.mark.parametrize("installed", [True, False])
def test_an_installed_package_finds_its_own_sql_or_fails_loudly(tmp_path: Path, installed: bool) -> None:
    site = tmp_path / "site"
    shutil.copytree(Path(sys.modules["farebox"].__path__[0]), site / "farebox")
    shutil.rmtree(site / "farebox" / "_sql", ignore_errors=True)
    if installed:
        shutil.copytree(db_dir(), site / "farebox" / "_sql" / "db")
        shutil.copytree(migrations_dir(), site / "farebox" / "_sql" / "migrations")
    else:
        # Empty folders are what a broken build would carry.
        (site / "farebox" / "_sql" / "db").mkdir(parents=True)
        (site / "farebox" / "_sql" / "migrations").mkdir()
    program = (
        "from farebox._migration_files import read_files; from farebox.schema import manifest;"
        "print(len(read_files()), len(manifest()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    if installed:
        assert done.stdout.split() == [
            str(len(list(migrations_dir().glob("*.sql"))) // 2),
            str(len(manifest())),
        ]
    else:
        assert "this installation of Farebox lacks its SQL" in done.stderr
