"""Several at once, killed in the middle, cut off, refused by the server: whole or not at all, and again."""

import subprocess
from pathlib import Path

import psycopg
import pytest

from farebox import _yoyo, migrate
from farebox._migration_files import read_files
from farebox.errors import MigrationError
from tests.migrations.lab import Connection, Lab

IDS = [file.id for file in read_files()]
LOCK = "insert into farebox_migrations.yoyo_lock (locked, ctime, pid) values (1, now(), 1)"


def applied(lab: Lab, database: str) -> list[str]:
    return [state.id for state in migrate.status(lab.dsn(database)) if state.applied_at]


def in_the_way(lab: Lab, database: str) -> Connection:
    """Applies the first migration and makes the second one wait in the middle, as long as this is open."""
    migrate.apply(lab.dsn(database), target=IDS[0])
    conn = lab.connect(database, autocommit=False)
    conn.execute("create table farebox.tickets ()")
    return conn


def finished(process: subprocess.Popen[str]) -> list[str]:
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return output.split()


def wait_until_gone(lab: Lab, database: str) -> None:
    """The server finds out that its client was killed when it next turns to it."""
    lab.wait_until(
        database,
        "select count(*) = 0 from pg_stat_activity"
        " where datname = current_database() and application_name = 'farebox migrate'",
    )


def test_two_processes_apply_each_migration_once(lab: Lab) -> None:
    """Seen to fail without the lock row: then nobody waits."""
    database = lab.database()
    migrate.apply(lab.dsn(database), target=IDS[0])
    migrate.rollback(lab.dsn(database))
    holder = lab.connect(database, autocommit=False)
    holder.execute(LOCK)
    processes = [lab.start_migrate(lab.dsn(database)) for _ in range(2)]
    lab.wait_for_blocked(database, 2)
    holder.rollback()
    assert sorted(map(finished, processes)) == [[], IDS]
    assert lab.catalog(database) == lab.catalog_of_db_folder()


def test_many_processes_meet_on_an_empty_database(lab: Lab) -> None:
    """All want to create the bookkeeping. Seen to fail without the advisory lock: then nobody waits."""
    database = lab.database()
    holder = lab.connect(database)
    holder.execute("select pg_advisory_lock(%s)", (_yoyo.BOOTSTRAP_KEY,))
    processes = [lab.start_migrate(lab.dsn(database)) for _ in range(4)]
    lab.wait_for_blocked(database, 4)
    holder.execute("select pg_advisory_unlock_all()")
    assert sorted(map(finished, processes)) == [[], [], [], IDS]


def test_a_process_killed_while_it_notes_what_it_did_has_done_nothing(lab: Lab) -> None:
    """Seen to fail with yoyo's own way, which commits the migration first: applied, but not noted."""
    database = lab.database()
    migrate.apply(lab.dsn(database), target=IDS[0])
    before = lab.catalog(database)
    holder = lab.connect(database, autocommit=False)
    holder.execute("lock table farebox_migrations._yoyo_log in share mode")
    process = lab.start_migrate(lab.dsn(database))
    lab.wait_for_blocked(database, 1)
    process.kill()
    process.wait()
    holder.rollback()
    wait_until_gone(lab, database)
    assert lab.catalog(database) == before
    assert migrate.apply(lab.dsn(database)) == IDS[1:]


def test_a_process_killed_in_the_middle_leaves_nothing_and_no_lock(lab: Lab) -> None:
    database = lab.database()
    holder = in_the_way(lab, database)
    before = lab.catalog(database)
    process = lab.start_migrate(lab.dsn(database))
    lab.wait_for_blocked(database, 1)
    process.kill()
    process.wait()
    holder.rollback()
    wait_until_gone(lab, database)
    assert lab.catalog(database) == before
    assert applied(lab, database) == IDS[:1]
    assert migrate.apply(lab.dsn(database), lock_seconds=0.1) == IDS[1:]
    assert lab.catalog(database) == lab.catalog_of_db_folder()


def test_a_connection_cut_in_the_middle_leaves_nothing(lab: Lab) -> None:
    database = lab.database()
    holder = in_the_way(lab, database)
    process = lab.start_migrate(lab.dsn(database))
    lab.wait_for_blocked(database, 1)
    lab.execute(
        database,
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = current_database() and wait_event_type = 'Lock'",
    )
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert f"MigrationError: {IDS[1]} could not be applied, and was not" in errors
    holder.rollback()
    assert applied(lab, database) == IDS[:1]
    assert migrate.apply(lab.dsn(database)) == IDS[1:]


def test_a_killed_yoyo_leaves_its_lock_and_the_error_says_how_to_break_it(lab: Lab) -> None:
    database = lab.database()
    holder = in_the_way(lab, database)
    process = lab.start_yoyo("apply", lab.yoyo_url(database))
    lab.wait_for_blocked(database, 1)
    process.kill()
    process.wait()
    holder.rollback()
    with pytest.raises(MigrationError, match="a yoyo process has locked") as caught:
        migrate.apply(lab.dsn(database), lock_seconds=0.1)
    assert "farebox migrate --break-lock" in str(caught.value.hint)
    assert f"process {process.pid}" in str(caught.value)
    assert migrate.break_lock(lab.dsn(database))
    assert not migrate.break_lock(lab.dsn(database))
    assert migrate.apply(lab.dsn(database)) == IDS[1:]


def test_there_is_no_lock_to_break_in_a_database_without_farebox(lab: Lab) -> None:
    assert not migrate.break_lock(lab.dsn(lab.database()))


def test_yoyo_waits_for_farebox_and_finds_its_work_done(lab: Lab) -> None:
    database = lab.database()
    holder = in_the_way(lab, database)
    farebox = lab.start_migrate(lab.dsn(database))
    lab.wait_for_blocked(database, 1)
    yoyo = lab.start_yoyo("apply", lab.yoyo_url(database))
    lab.wait_for_blocked(database, 2)
    holder.rollback()
    assert finished(farebox) == IDS[1:]
    assert finished(yoyo) == []
    assert applied(lab, database) == IDS


def test_waiting_for_another_migration_has_an_end(lab: Lab) -> None:
    database = lab.database()
    migrate.apply(lab.dsn(database), target=IDS[0])
    holder = lab.connect(database, autocommit=False)
    holder.execute(LOCK)
    for call in (migrate.apply, migrate.rollback):
        with pytest.raises(MigrationError, match="another farebox migrate or rollback") as caught:
            call(lab.dsn(database), lock_seconds=0.05)
        assert caught.value.sqlstate == "55P03"
    assert [state.id for state in migrate.status(lab.dsn(database)) if state.applied_at] == IDS[:1]


def test_a_table_in_use_stops_the_migration_and_not_its_users(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_yoyo, "DDL_LOCK_SECONDS", 0.05)
    database = lab.database()
    migrate.apply(lab.dsn(database))
    user = lab.connect(database, autocommit=False)
    user.execute("select from farebox.tickets")
    chosen = migrate.preview_rollback(lab.dsn(database), target=IDS[0])
    before = lab.catalog(database)
    with pytest.raises(MigrationError, match="lock timeout") as caught:
        migrate.rollback(lab.dsn(database), target=IDS[0])
    assert caught.value.sqlstate == "55P03"
    assert "pg_stat_activity" in str(caught.value.hint)
    left = applied(lab, database)
    assert chosen[-1] in left
    user.rollback()
    migrate.apply(lab.dsn(database))
    assert lab.catalog(database) == before


def write(folder: Path, number: int, up: str, down: str) -> str:
    name = f"{number:04d}.test-things"
    (folder / f"{name}.sql").write_text(up)
    (folder / f"{name}.rollback.sql").write_text(down)
    return name


def test_a_migration_that_fails_half_way_leaves_the_ones_before_it(lab: Lab, tmp_path: Path) -> None:
    first = write(tmp_path, 1, "create table public.a ();", "drop table public.a;")
    second = write(
        tmp_path, 2, "create table public.b ();\ncreate table public.a ();", "drop table public.b;"
    )
    database = lab.database()
    with pytest.raises(MigrationError, match='relation "a" already exists') as caught:
        migrate.apply(lab.dsn(database), folder=tmp_path)
    assert second in str(caught.value)
    assert caught.value.sqlstate == "42P07"
    assert lab.execute(database, "select to_regclass('public.a')::text, to_regclass('public.b')::text") == [
        ("a", None)
    ]
    write(tmp_path, 2, "create table public.b ();", "drop table public.b;\nselect 1 / 0;")
    assert migrate.apply(lab.dsn(database), folder=tmp_path) == [second]
    with pytest.raises(MigrationError, match="could not be rolled back"):
        migrate.rollback(lab.dsn(database), folder=tmp_path)
    assert lab.execute(database, "select to_regclass('public.b')::text") == [("b",)]
    assert [state.id for state in migrate.status(lab.dsn(database), folder=tmp_path) if state.applied_at] == [
        first,
        second,
    ]


@pytest.mark.parametrize(
    ("change", "sqlstate"),
    [
        ("alter table public.t add unique (phone);", "23505"),
        ("alter table public.t alter phone type uuid using phone::uuid;", "22P02"),
    ],
)
def test_an_error_about_data_does_not_quote_it(lab: Lab, tmp_path: Path, change: str, sqlstate: str) -> None:
    write(
        tmp_path,
        1,
        "create table public.t (phone text);\n"
        f"insert into public.t values ('+23276999999'), ('+23276999999');\n{change}",
        "drop table public.t;",
    )
    with pytest.raises(MigrationError) as caught:
        migrate.apply(lab.dsn(lab.database()), folder=tmp_path)
    error = caught.value
    assert error.sqlstate == sqlstate
    assert error.__cause__ is None
    assert error.__suppress_context__
    assert "76999999" not in f"{error} {error!r} {error.detail} {error.hint}"


def test_a_migration_outside_a_transaction_runs_under_the_lock(lab: Lab, tmp_path: Path) -> None:
    """The held lock must not be what ``create index concurrently`` waits for."""
    database = lab.database()
    lab.execute(database, "create table public.t (id int)")
    name = write(
        tmp_path,
        1,
        "-- transactional: false\ncreate index concurrently t_id on public.t (id);",
        "-- transactional: false\ndrop index concurrently public.t_id;",
    )
    before = lab.catalog(database)
    assert migrate.apply(lab.dsn(database), folder=tmp_path) == [name]
    assert lab.execute(database, "select indisvalid from pg_index where indrelid = 'public.t'::regclass") == [
        (True,)
    ]
    assert migrate.rollback(lab.dsn(database), folder=tmp_path) == [name]
    assert lab.catalog(database) == before


def test_short_timeouts_of_a_server_do_not_cut_a_migration_off(
    lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Managed servers end slow statements and idle transactions; the lock and the migration outlive that.

    Nor is anything printed, as yoyo does with what a statement returns: with --json it would be no JSON.
    """
    name = write(tmp_path, 1, "select pg_sleep(0.3) is not null;", "select 1;")
    database = lab.database()
    for setting in ("statement_timeout", "idle_in_transaction_session_timeout"):
        lab.execute("postgres", f"alter database {database} set {setting} = '100ms'".encode())
    assert migrate.apply(lab.dsn(database), folder=tmp_path) == [name]
    assert capsys.readouterr().out == ""
    with psycopg.connect(lab.dsn(database), autocommit=True) as conn:
        assert conn.execute("select count(*) from farebox_migrations.yoyo_lock").fetchone() == (0,)
