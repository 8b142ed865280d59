"""The plain yoyo command and ``farebox migrate`` work on the same state, in any order."""

import subprocess
import sys

import pytest

from farebox import migrate
from farebox._files import migrations_dir
from farebox._migration_files import read_files
from farebox.errors import MigrationError
from tests.migrations.lab import Lab

IDS = [file.id for file in read_files()]
SCHEMA = "create schema if not exists farebox_migrations"


def listed(output: str) -> dict[str, str]:
    """What ``yoyo list`` prints: A (applied) or U by id."""
    rows = [line.split() for line in output.splitlines() if line[:1] in "AU"]
    return {row[1]: row[0] for row in rows}


def test_the_documented_commands_migrate_and_roll_back(lab: Lab) -> None:
    """As migrations/README.md has it: one statement, then yoyo with the yoyo.ini of the folder."""
    database = lab.database()

    def yoyo(*arguments: str) -> str:
        command = [sys.executable, "-m", "yoyo", *arguments, "--config", str(migrations_dir() / "yoyo.ini")]
        done = subprocess.run(
            [*command, "--database", lab.yoyo_url(database)],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    lab.execute(database, SCHEMA)
    before = lab.catalog_and_roles(database)
    yoyo("apply")
    assert lab.catalog(database) == lab.catalog_of_db_folder()
    assert listed(yoyo("list")) == dict.fromkeys(IDS, "A")
    yoyo("rollback")
    assert listed(yoyo("list")) == dict.fromkeys(IDS[:-1], "A") | {IDS[-1]: "U"}
    yoyo("rollback", "--all")
    assert lab.catalog_and_roles(database) == before


def test_farebox_goes_on_where_yoyo_stopped(lab: Lab) -> None:
    database = lab.database()
    lab.execute(database, SCHEMA)
    lab.yoyo("apply", lab.yoyo_url(database), "--revision", IDS[1])
    assert [state.id for state in migrate.status(lab.dsn(database)) if state.applied_at] == IDS[:2]
    assert not any(state.edited for state in migrate.status(lab.dsn(database)))
    assert migrate.apply(lab.dsn(database)) == IDS[2:]
    assert lab.catalog(database) == lab.catalog_of_db_folder()
    assert migrate.rollback(lab.dsn(database), count=None) == IDS[::-1]


def test_yoyo_goes_on_where_farebox_stopped(lab: Lab) -> None:
    database = lab.database()
    before = lab.catalog_and_roles(database)
    migrate.apply(lab.dsn(database), target=IDS[0])
    assert listed(lab.yoyo("list", lab.yoyo_url(database))) == {IDS[0]: "A"} | dict.fromkeys(IDS[1:], "U")
    lab.yoyo("apply", lab.yoyo_url(database))
    assert [state.id for state in migrate.status(lab.dsn(database)) if state.applied_at] == IDS
    lab.yoyo("rollback", lab.yoyo_url(database), "--all")
    assert not any(state.applied_at for state in migrate.status(lab.dsn(database)))
    assert lab.catalog_and_roles(database) == before


def test_yoyo_makes_the_same_bookkeeping(lab: Lab) -> None:
    """The tables are yoyo's own; neither may find the other's strange."""

    def columns(database: str) -> list[tuple[object, ...]]:
        return lab.execute(
            database,
            "select table_name, column_name, data_type, character_maximum_length, is_nullable, column_default"
            " from information_schema.columns where table_schema = 'farebox_migrations' order by 1, 2",
        )

    by_yoyo, by_farebox, by_script = lab.database(), lab.database(), lab.database()
    lab.execute(by_yoyo, SCHEMA)
    lab.yoyo("apply", lab.yoyo_url(by_yoyo))
    migrate.apply(lab.dsn(by_farebox))
    lab.execute(by_script, migrate.render().encode())
    assert columns(by_yoyo) == columns(by_farebox) == columns(by_script)


def test_a_schema_that_nobody_noted_is_not_touched(lab: Lab) -> None:
    """Applied by yoyo without the schema in its URL: the state is elsewhere, so Farebox says what to do."""
    database = lab.database()
    lab.yoyo("apply", lab.yoyo_url(database).split("?")[0])
    before = lab.catalog(database)
    with pytest.raises(MigrationError, match="schema farebox exists") as caught:
        migrate.apply(lab.dsn(database))
    assert "yoyo mark" in str(caught.value.hint)
    assert lab.catalog(database) == before
