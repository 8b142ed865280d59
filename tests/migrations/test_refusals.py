"""What must not be migrated is refused, with a way out in the message."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import LiteralString

import pytest

from farebox import _preflight, migrate
from farebox._files import migrations_dir
from farebox._migration_files import SUMS, checksum, read_files, released_sums
from farebox.errors import ConfigurationError, FareboxError, MigrationError, TransientError
from tests.migrations.lab import Lab
from tests.support.servers import Server

IDS = [file.id for file in read_files()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the migrations, released, to do wrong things to."""
    copy = tmp_path / "migrations"
    shutil.copytree(migrations_dir(), copy)
    sums = {path.name: checksum(path.read_bytes()) for path in sorted(copy.glob("*.sql"))}
    (copy / SUMS).write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()))
    return copy


# -- the folder, as it is ----------------------------------------------------------------------------------


def test_every_migration_has_its_rollback() -> None:
    assert [file.id for file in read_files() if file.down is None] == []


def test_released_files_are_as_they_were_released() -> None:
    for name, digest in released_sums(migrations_dir()).items():
        assert checksum((migrations_dir() / name).read_bytes()) == digest, name


def test_nothing_in_the_folder_runs_unseen() -> None:
    """yoyo would run Python files too, and hooks after every apply."""
    known = {file.up.name for file in read_files()} | {file.down.name for file in read_files() if file.down}
    assert {path.name for path in migrations_dir().iterdir()} - known <= {SUMS, "README.md", "yoyo.ini"}
    assert not [name for name in known if name.startswith("post-apply")]


def test_each_migration_depends_on_the_one_before_it() -> None:
    for file, previous in zip(read_files()[1:], IDS, strict=False):
        assert f"-- depends: {previous}\n" in file.up.read_text()


# -- the folder, wrong -------------------------------------------------------------------------------------


def refuse(lab: Lab, folder: Path, match: str) -> MigrationError:
    """``apply`` and ``rollback`` refuse and touch nothing."""
    database = lab.database()
    before = lab.catalog(database)
    with pytest.raises(MigrationError, match=match):
        migrate.rollback(lab.dsn(database), folder=folder)
    with pytest.raises(MigrationError, match=match) as caught:
        migrate.apply(lab.dsn(database), folder=folder)
    assert lab.catalog(database) == before
    assert lab.execute(database, "select to_regnamespace('farebox_migrations')") == [(None,)]
    return caught.value


def test_without_a_rollback_file(lab: Lab, folder: Path) -> None:
    (folder / SUMS).unlink()
    (folder / f"{IDS[1]}.rollback.sql").unlink()
    error = refuse(lab, folder, f"without a rollback file: {IDS[1]}")
    assert ".rollback.sql" in str(error.hint)
    assert [state.has_rollback for state in migrate.status(lab.dsn("postgres"), folder=folder)][:3] == [
        True,
        False,
        True,
    ]


@pytest.mark.parametrize("suffix", [".sql", ".rollback.sql"])
def test_edited_after_its_release(lab: Lab, folder: Path, suffix: str) -> None:
    path = folder / f"{IDS[1]}{suffix}"
    path.write_text(path.read_text() + "\n-- one comment more\n")
    refuse(lab, folder, f"edited after its release: {IDS[1]}")
    assert [state.id for state in migrate.status(lab.dsn("postgres"), folder=folder) if state.edited] == [
        IDS[1]
    ]


def test_released_and_gone(lab: Lab, folder: Path) -> None:
    (folder / f"{IDS[-1]}.sql").unlink()
    (folder / f"{IDS[-1]}.rollback.sql").unlink()
    refuse(lab, folder, "released and listed in SHA256SUMS, but missing")


def test_no_migrations_at_all(lab: Lab, tmp_path: Path) -> None:
    """yoyo would take this for a database that needs nothing."""
    refuse(lab, tmp_path, "no migrations in")
    refuse(lab, tmp_path / "nowhere", "no migrations in")


def test_two_with_one_number(lab: Lab, folder: Path) -> None:
    (folder / f"{IDS[0][:4]}.add-twin.sql").write_text("select 1;")
    refuse(lab, folder, f"more than one migration has the number {IDS[0][:4]}")


def test_a_name_that_does_not_fit(lab: Lab, folder: Path) -> None:
    (folder / "hotfix.sql").write_text("select 1;")
    refuse(lab, folder, "not named NNNN.verb-object.sql: hotfix")


def test_a_rollback_of_nothing(lab: Lab, folder: Path) -> None:
    (folder / "0099.drop-all.rollback.sql").write_text("select 1;")
    refuse(lab, folder, "rollback without a migration: 0099.drop-all")


def test_depends_on_what_is_not_there(lab: Lab, folder: Path) -> None:
    (folder / "0099.add-refunds.sql").write_text("-- depends: 0098.never-was\nselect 1;")
    (folder / "0099.add-refunds.rollback.sql").write_text("select 1;")
    with pytest.raises(MigrationError, match="yoyo cannot read it"):
        migrate.apply(lab.dsn(lab.database()), folder=folder)


def test_a_target_that_is_not_there(lab: Lab) -> None:
    dsn = lab.dsn(lab.database())
    for call in (migrate.apply, migrate.rollback, migrate.preview_rollback):
        with pytest.raises(MigrationError, match="no migration '0099'; there are 0001"):
            call(dsn, target="0099")


# -- the database ------------------------------------------------------------------------------------------


def test_applied_from_another_text(lab: Lab, folder: Path) -> None:
    """Before a release files may change; a database made from the earlier text is no good for going on."""
    (folder / SUMS).unlink()
    dsn = lab.dsn(lab.database())
    migrate.apply(dsn, folder=folder, target=IDS[1])
    path = folder / f"{IDS[1]}.sql"
    path.write_text(path.read_text() + "\n-- one comment more\n")
    assert [state.id for state in migrate.status(dsn, folder=folder) if state.edited] == [IDS[1]]
    refused = f"edited after it was applied to this database: {IDS[1]}"
    with pytest.raises(MigrationError, match=refused):
        migrate.apply(dsn, folder=folder)
    with pytest.raises(MigrationError, match=refused):
        migrate.render(pending_for=dsn, folder=folder)
    assert migrate.rollback(dsn, folder=folder) == [IDS[1]]
    assert migrate.apply(dsn, folder=folder) == IDS[1:]
    assert not any(state.edited for state in migrate.status(dsn, folder=folder))


def test_newer_than_this_package(lab: Lab, folder: Path) -> None:
    (folder / "0099.add-refunds.sql").write_text(f"-- depends: {IDS[-1]}\ncreate table farebox.refunds ();")
    (folder / "0099.add-refunds.rollback.sql").write_text("drop table farebox.refunds;")
    database = lab.database()
    dsn = lab.dsn(database)
    assert migrate.apply(dsn, folder=folder)[-1] == "0099.add-refunds"
    before = lab.catalog(database)

    def script_back(dsn: str) -> str:
        return migrate.render(rollback=True, pending_for=dsn)

    calls: list[Callable[[str], object]] = [migrate.apply, migrate.rollback, script_back]
    for call in calls:
        with pytest.raises(
            MigrationError, match=r"newer than this Farebox: it has 0099\.add-refunds"
        ) as caught:
            call(dsn)
        assert "later" in str(caught.value.hint)
    assert lab.catalog(database) == before
    last = migrate.status(dsn)[-1]
    assert (last.id, last.known, last.applied_at is not None) == ("0099.add-refunds", False, True)


def test_a_schema_of_that_name_from_elsewhere(lab: Lab) -> None:
    database = lab.database()
    lab.execute(database, "create schema farebox")
    before = lab.catalog(database)
    with pytest.raises(MigrationError, match="schema farebox exists"):
        migrate.apply(lab.dsn(database))
    assert lab.catalog(database) == before


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_not_encoded_in_utf8(lab: Lab, encoding: LiteralString) -> None:
    name = lab.database(encoding=encoding)
    with pytest.raises(MigrationError, match=f"encoded in {encoding}; Farebox needs UTF8") as caught:
        migrate.apply(lab.dsn(name))
    statement = str(caught.value.hint)
    assert statement.startswith("create database")
    lab.execute("postgres", statement.encode())
    assert migrate.apply(lab.dsn(statement.split()[2])) == IDS


def test_too_old_a_server(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_preflight, "OLDEST_SERVER", 990000)
    with pytest.raises(MigrationError, match=rf"PostgreSQL {lab.server.major} is too old: .* 99 or later"):
        migrate.apply(lab.dsn(lab.database()))


def test_a_standby(own_server: Server) -> None:
    own_server.stop()
    (own_server.cluster.data_dir / "standby.signal").touch()
    own_server.start()
    with pytest.raises(MigrationError, match="is a standby"):
        migrate.apply(own_server.dsn("postgres"))


def test_no_connection(lab: Lab) -> None:
    calls = (migrate.apply, migrate.rollback, migrate.status, migrate.preview_rollback, migrate.break_lock)
    for call in calls:
        with pytest.raises(TransientError):
            call("host=127.0.0.1 port=1 dbname=x password=hush")
        with pytest.raises(ConfigurationError):
            call(lab.dsn("no_such_database"))
        with pytest.raises(FareboxError) as caught:
            call("postgresql://user:hush@@:x/")
        assert "hush" not in f"{caught.value!r} {caught.value.hint} {caught.value.__cause__}"
