"""The tool that makes migrations: deterministic, complete both ways, careful with what is released."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from farebox import migrate
from farebox._files import db_dir, migrations_dir
from farebox.errors import MigrationError
from farebox.schema import manifest
from tests.migrations.lab import Lab
from tests.tools.freeze_migrations import BY_HAND, FreezeError, first_release, frozen_state, main, unfrozen
from tests.tools.inverse_sql import UnknownStatementError, arguments, undo


def freeze(db: Path, *arguments: str) -> str:
    """Runs the tool; returns what it says."""
    ran = CliRunner().invoke(main, ["--db", str(db), *arguments], catch_exceptions=False)
    if ran.exit_code != 0:
        raise FreezeError(ran.stderr.strip())
    return ran.stdout


@pytest.fixture(scope="session")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of ``db/`` and beside it the migrations, made and released; for copying."""
    folder = tmp_path_factory.mktemp("released")
    shutil.copytree(db_dir(), folder / "db")
    freeze(folder / "db", "--regenerate-unreleased")
    freeze(folder / "db", "--release")
    return folder


@pytest.fixture
def db(released: Path, tmp_path: Path) -> Path:
    """A copy of ``db/`` whose migrations, beside it, are made and released."""
    shutil.copytree(released, tmp_path, dirs_exist_ok=True)
    return tmp_path / "db"


def edit(path: Path, old: str, new: str) -> None:
    """Replaces ``old``, which must be there, by ``new``."""
    text = path.read_text()
    assert old in text, path
    path.write_text(text.replace(old, new))


def add_function(db: Path, name: str, definition: str) -> None:
    """A new file in ``db/functions``, in the manifest before the policies."""
    (db / "functions" / f"{name}.sql").write_text(f"set role farebox_owner;\n\n{definition}\n\nreset role;\n")
    edit(db / "farebox.sql", "\\ir policies.sql", f"\\ir functions/{name}.sql\n\\ir policies.sql")


def test_the_migrations_hold_all_of_db() -> None:
    assert unfrozen(manifest(), migrations_dir()) == []


def test_the_same_db_gives_the_same_migrations(tmp_path: Path) -> None:
    """In processes of their own, as `make migration` does: nothing may hang on the order of a set."""
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        options = ["--migrations", str(folder), "--regenerate-unreleased"]
        command = [sys.executable, "-m", "tests.tools.freeze_migrations", *options]
        subprocess.run(command, capture_output=True, check=True, cwd=db_dir().parent)
    texts = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in (one, other)]
    assert texts[0] == texts[1]
    assert len(texts[0]) == 2 * len(first_release(manifest()))


def test_copies_are_the_files_word_for_word(db: Path) -> None:
    state = frozen_state(db.parent / "migrations")
    for file in manifest(db):
        assert state[file.name].text == file.text.strip() + "\n"


def test_released_sums_are_what_sha256sum_checks(db: Path) -> None:
    folder = db.parent / "migrations"
    program = shutil.which("sha256sum")
    assert program is not None
    done = subprocess.run(
        [program, "--check", "--strict", "SHA256SUMS"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(list(folder.glob("*.sql")))


def test_what_is_released_is_not_made_anew(db: Path) -> None:
    with pytest.raises(FreezeError, match="SHA256SUMS lists released migrations"):
        freeze(db, "--regenerate-unreleased")
    with pytest.raises(FreezeError, match="nothing in db/ has changed"):
        freeze(db, "--new", "change-nothing")
    last = sorted((db.parent / "migrations").glob("*.sql"))[-1]
    last.write_text(last.read_text() + "\n")
    with pytest.raises(FreezeError, match=f"edited or gone since their release: {re.escape(last.name)}"):
        freeze(db, "--release")


def test_changes_of_functions_and_grants_come_complete(lab: Lab, db: Path) -> None:
    """Functions changed, new and removed, one with a trigger, grants, policies: up, down and up again."""
    folder = db.parent / "migrations"
    add_function(
        db,
        "_shout",
        "create function farebox._shout() returns trigger language plpgsql security invoker\n"
        "as $$ begin return new; end $$;\n"
        "create trigger shout before update on farebox.routes\n"
        "for each row execute function farebox._shout();\n"
        "create function farebox.count_routes(p_company_id uuid default null) returns bigint language sql\n"
        "stable security definer set search_path = pg_catalog, pg_temp\n"
        "as $$ select count(*) from farebox.routes $$;\n"
        "comment on function farebox.count_routes(uuid) is 'How many; all';",
    )
    freeze(db, "--new", "count-routes")
    freeze(db, "--release")
    levels = {"0005.count-routes": lab.catalog_of_db_folder(db)}

    shutil.copytree(db, db.parent / "db5")
    edit(db / "functions" / "_shout.sql", "begin return new; end", "begin return null; end")
    edit(db / "functions" / "_shout.sql", "before update on farebox.routes", "after update on farebox.routes")
    edit(db / "functions" / "_now.sql", "pg_catalog.clock_timestamp()", "pg_catalog.statement_timestamp()")
    add_function(
        db,
        "drop_route",
        "create function farebox.drop_route(p_route_id uuid) returns void language sql security definer\n"
        "set search_path = pg_catalog, pg_temp as $$ delete from farebox.routes where id = p_route_id $$;",
    )
    edit(
        db / "grants.sql", "grant execute on function", "grant execute on function farebox.drop_route(uuid),"
    )
    edit(db / "grants.sql", "grant select on farebox.unapplied_payments to farebox_admin;", "")
    edit(db / "policies.sql", "create policy routes_own_rows", "create policy routes_of_its_own")
    edit(db / "policies.sql", "on policy routes_own_rows", "on policy routes_of_its_own")
    freeze(db, "--new", "drop-routes")
    freeze(db, "--check")
    freeze(db, "--release")
    levels["0006.drop-routes"] = lab.catalog_of_db_folder(db)

    (db / "functions" / "_shout.sql").unlink()
    edit(db / "farebox.sql", "\\ir functions/_shout.sql\n", "")
    freeze(db, "--new", "remove-shouting")
    levels["0007.remove-shouting"] = lab.catalog_of_db_folder(db)

    database = lab.database()
    migrate.apply(lab.dsn(database), folder=folder, target="0004")
    lab.add_data(database)
    before = lab.catalog(database)
    for name, expected in levels.items():
        for _ in range(2):
            assert migrate.apply(lab.dsn(database), folder=folder, target=name) == [name]
            assert lab.catalog(database) == expected
            assert migrate.rollback(lab.dsn(database), folder=folder) == [name]
            assert lab.catalog(database) == before
        migrate.apply(lab.dsn(database), folder=folder, target=name)
        before = expected
    counts = lab.counts(database)
    assert counts.pop("tally") == 201
    assert set(counts.values()) == {1}


def test_a_changed_table_is_left_to_people(lab: Lab, db: Path) -> None:
    folder = db.parent / "migrations"
    edit(db / "tables" / "routes.sql", "  fare bigint not null,", "  fare bigint not null,\n  seats int,")
    assert "complete what is left to you" in freeze(db, "--new", "add-seats")
    up, down = folder / "0005.add-seats.sql", folder / "0005.add-seats.rollback.sql"
    assert BY_HAND in up.read_text()
    assert BY_HAND in down.read_text()
    for action in ("--check", "--release"):
        with pytest.raises(FreezeError, match="a part that is to be written by hand"):
            freeze(db, action)
    with pytest.raises(MigrationError, match=BY_HAND):
        migrate.apply(lab.dsn(lab.database()), folder=folder)
    hand = "set role farebox_owner;\nalter table farebox.routes {} column seats{};\nreset role;\n"
    for path, statements in ((up, hand.format("add", " int")), (down, hand.format("drop", ""))):
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(statements if BY_HAND in line else line for line in lines))
    freeze(db, "--check")
    freeze(db, "--release")
    with pytest.raises(FreezeError, match="nothing in db/ has changed"):
        freeze(db, "--new", "change-nothing")
    database = lab.database()
    migrate.apply(lab.dsn(database), folder=folder, target="0004")
    before = lab.catalog(database)
    assert migrate.apply(lab.dsn(database), folder=folder) == ["0005.add-seats"]
    assert migrate.rollback(lab.dsn(database), folder=folder) == ["0005.add-seats"]
    assert lab.catalog(database) == before


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (
            "create_tickets(p_batch json)",
            "create_tickets(p_batch jsonb)",
            "a released signature never changes",
        ),
        ("returns setof farebox.ticket_outcome", "returns setof text", "takes a new function"),
    ],
)
def test_a_released_signature_never_changes(db: Path, old: str, new: str, reason: str) -> None:
    edit(db / "functions" / "create_tickets.sql", old, new)
    with pytest.raises(FreezeError, match=reason):
        freeze(db, "--new", "change-signature")


@pytest.mark.parametrize("name", ["Add-Refunds", "refunds", "0005.add-refunds", "add_refunds", ""])
def test_a_migration_is_named_verb_object(db: Path, name: str) -> None:
    edit(db / "functions" / "_now.sql", "clock_timestamp", "statement_timestamp")
    with pytest.raises(FreezeError, match="is no name for a migration"):
        freeze(db, "--new", name)


def test_a_statement_without_a_known_opposite_is_refused() -> None:
    for statement in ("alter table farebox.routes add column x int;", "vacuum;", "do $$ begin end $$;"):
        with pytest.raises(UnknownStatementError):
            undo(statement)


def test_the_opposites() -> None:
    text = """
    -- drop nothing; really
    set role farebox_owner;
    create table farebox.t (id int default 1, v text collate "C"); -- a; comment
    create unique index t_v on farebox.t (v);
    comment on table farebox.t is 'a; b';
    alter table farebox.t enable row level security;
    create index other on farebox.routes (fare);
    create or replace function farebox.f(p_a int default (1), out b text, p_c numeric(5, 4) = 0.5)
    returns text language sql as $$ select 'create function farebox.g()' $$;
    create trigger tr before insert or update of fare on farebox.routes
    for each row execute function farebox.f();
    grant select (id, v), update on farebox.t to farebox_app, farebox_admin;
    reset role;
    """
    assert undo(text) == [
        "revoke select (id, v), update on farebox.t from farebox_app, farebox_admin;",
        "drop trigger tr on farebox.routes;",
        "drop function farebox.f(p_a int, out b text, p_c numeric(5, 4));",
        "drop index farebox.other;",
        "drop table farebox.t;",
    ]
    assert arguments("f()", 2) == []
