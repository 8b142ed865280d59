"""``farebox sql``: a script for people and consoles that does exactly what ``farebox migrate`` does."""

import subprocess

import pytest

from farebox import migrate
from farebox._migration_files import read_files
from tests.migrations.lab import Lab

IDS = [file.id for file in read_files()]


def psql(lab: Lab, database: str, script: str, login: str | None = None) -> subprocess.CompletedProcess[str]:
    """Feeds the script to psql as a DBA would."""
    program = lab.server.cluster.installation.bin / "psql"
    return subprocess.run(
        [str(program), "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", lab.dsn(database, login)],
        input=script,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def applied(lab: Lab, database: str) -> list[str]:
    return [state.id for state in migrate.status(lab.dsn(database)) if state.applied_at]


def test_the_script_is_the_migration_and_its_rollback_undoes_it(lab: Lab) -> None:
    login = lab.login("createrole")
    database = lab.database(owner=login)
    before = lab.catalog_and_roles(database)
    done = psql(lab, database, migrate.render(), login)
    assert done.returncode == 0, done.stderr
    other = lab.database(owner=login)
    migrate.apply(lab.dsn(other, login))
    assert lab.catalog(database) == lab.catalog(other)
    assert applied(lab, database) == IDS
    assert not any(state.edited for state in migrate.status(lab.dsn(database)))
    assert migrate.apply(lab.dsn(database)) == []
    migrate.rollback(lab.dsn(other, login), count=None)
    done = psql(lab, database, migrate.render(rollback=True), login)
    assert done.returncode == 0, done.stderr
    assert lab.catalog_and_roles(database) == before
    assert applied(lab, database) == []
    assert migrate.apply(lab.dsn(database, login)) == IDS


def test_the_script_in_one_message_as_a_console_sends_it(lab: Lab) -> None:
    database = lab.database()
    lab.execute(database, migrate.render().encode())
    assert applied(lab, database) == IDS
    lab.execute(database, migrate.render(rollback=True).encode())
    assert applied(lab, database) == []


def test_only_what_is_pending(lab: Lab) -> None:
    database = lab.database()
    dsn = lab.dsn(database)
    migrate.apply(dsn, target=IDS[1])
    done = psql(lab, database, migrate.render(pending_for=dsn))
    assert done.returncode == 0, done.stderr
    assert applied(lab, database) == IDS
    assert lab.catalog(database) == lab.catalog_of_db_folder()
    assert migrate.render(pending_for=dsn) == "-- Farebox: nothing to apply.\n"
    migrate.rollback(dsn)
    done = psql(lab, database, migrate.render(rollback=True, pending_for=dsn))
    assert done.returncode == 0, done.stderr
    assert migrate.render(rollback=True, pending_for=dsn) == "-- Farebox: nothing to roll back.\n"


@pytest.mark.parametrize("rollback", [False, True])
def test_a_script_that_fails_leaves_nothing(lab: Lab, rollback: bool) -> None:
    database = lab.database()
    if rollback:
        migrate.apply(lab.dsn(database))
        lab.execute(database, "create view public.report as select id from farebox.companies")
    else:
        lab.execute(database, "create schema farebox")
    before = lab.catalog_and_roles(database)
    done = psql(lab, database, migrate.render(rollback=rollback))
    assert done.returncode != 0
    assert lab.catalog_and_roles(database) == before
    assert applied(lab, database) == (IDS if rollback else [])


def test_a_script_pasted_twice_says_so_and_changes_nothing(lab: Lab) -> None:
    database = lab.database()
    psql(lab, database, migrate.render())
    before = lab.catalog(database)
    done = psql(lab, database, migrate.render())
    assert done.returncode != 0
    assert "already exists" in done.stderr
    assert lab.catalog(database) == before


def test_the_script_keeps_out_of_a_running_migration(lab: Lab) -> None:
    database = lab.database()
    migrate.apply(lab.dsn(database), target=IDS[0])
    lab.execute(
        database, "insert into farebox_migrations.yoyo_lock (locked, ctime, pid) values (1, now(), 1)"
    )
    done = psql(lab, database, migrate.render(pending_for=lab.dsn(database)))
    assert done.returncode != 0
    assert "yoyo_lock" in done.stderr
    assert applied(lab, database) == IDS[:1]
