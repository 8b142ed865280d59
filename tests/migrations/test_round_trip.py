"""``db/`` and the migrations make the same database, and every step can be taken back."""

from pathlib import Path

import pytest
from yoyo.migrations import read_sql_migration

from farebox import migrate
from farebox._files import db_dir
from farebox._migration_files import read_files
from farebox.schema import manifest
from tests.migrations.lab import Lab

IDS = [file.id for file in read_files()]

TRAPS = """
declare
  v_text text := 'a; b'; -- a comment; with 'one quote and $$
begin
  /* begin; end; /* nested; */ */
  begin
    if 1 = 1 then perform case when true then 1 end; end if;
    execute $q$ select 'x;y' $q$;
  exception
    when unique_violation then null;
    when others then raise exception using errcode = 'TK001', message = 'no; 50%', hint = $h$it's; $h$;
  end;
  for v_text in select unnest(array['a', 'b']) loop continue; end loop;
"""


def test_all_migrations_give_the_catalog_of_db(lab: Lab) -> None:
    database = lab.database()
    assert migrate.apply(lab.dsn(database)) == IDS
    migrated, loaded = lab.catalog(database), lab.catalog_of_db_folder()
    for kind in loaded:
        assert migrated[kind] == loaded[kind], kind
    # A catalog that saw nothing would be equal too.
    assert [row for row in loaded["relations"] if row["name"] == "farebox.tickets"]
    assert len(loaded["functions"]) >= len(list((db_dir() / "functions").glob("*.sql")))


@pytest.mark.parametrize("migration_id", IDS)
def test_each_migration_goes_up_down_and_up_again(lab: Lab, migration_id: str) -> None:
    database = lab.database()
    dsn = lab.dsn(database)
    before = IDS[: IDS.index(migration_id)]
    if before:
        assert migrate.apply(dsn, target=before[-1]) == before
    untouched = lab.catalog_and_roles(database)
    assert migrate.apply(dsn, target=migration_id) == [migration_id]
    applied = lab.catalog_and_roles(database)
    assert applied != untouched
    assert migrate.rollback(dsn) == [migration_id]
    assert lab.catalog_and_roles(database) == untouched
    assert migrate.apply(dsn, target=migration_id) == [migration_id]
    assert lab.catalog_and_roles(database) == applied


def test_all_steps_back_with_data_present(lab: Lab) -> None:
    """Rows must not stand in the way of a step back, and stay until their own table goes."""
    database = lab.database()
    dsn = lab.dsn(database)
    empty = lab.catalog_and_roles(database)
    levels = [empty]
    for migration_id in IDS:
        migrate.apply(dsn, target=migration_id)
        levels.append(lab.catalog_and_roles(database))
    lab.add_data(database)
    while levels.pop() != empty:
        rows = lab.counts(database)
        assert migrate.rollback(dsn) == [IDS[len(levels) - 1]]
        assert lab.catalog_and_roles(database) == levels[-1]
        assert lab.counts(database).items() <= rows.items()
    assert migrate.rollback(dsn) == []


def test_rolling_everything_back_at_once_leaves_an_empty_database(lab: Lab) -> None:
    database = lab.database()
    empty = lab.catalog_and_roles(database)
    migrate.apply(lab.dsn(database))
    lab.add_data(database)
    assert migrate.rollback(lab.dsn(database), count=None) == IDS[::-1]
    assert lab.catalog_and_roles(database) == empty
    assert migrate.apply(lab.dsn(database)) == IDS


def test_target_names_what_stays(lab: Lab) -> None:
    dsn = lab.dsn(lab.database())
    assert migrate.apply(dsn, target=IDS[1].split(".")[0]) == IDS[:2]
    assert migrate.apply(dsn, target=IDS[0]) == []
    assert migrate.apply(dsn) == IDS[2:]
    assert migrate.preview_rollback(dsn, target=IDS[1]) == IDS[:1:-1]
    assert migrate.rollback(dsn, target=IDS[1]) == IDS[:1:-1]
    assert migrate.rollback(dsn, target=IDS[1]) == []


def test_status_tells_what_is_applied_and_changes_nothing(lab: Lab) -> None:
    database = lab.database()
    untouched = lab.catalog(database)
    assert [(state.id, state.applied_at) for state in migrate.status(lab.dsn(database))] == [
        (migration_id, None) for migration_id in IDS
    ]
    assert lab.catalog(database) == untouched
    assert lab.execute(database, "select to_regnamespace('farebox_migrations')") == [(None,)]
    migrate.apply(lab.dsn(database), target=IDS[0])
    [first, *others] = migrate.status(lab.dsn(database))
    assert first.applied_at is not None
    assert not any(state.applied_at for state in others)
    assert not any(state.edited for state in [first, *others])
    assert all(state.known and state.has_rollback for state in [first, *others])


def test_the_function_bodies_reach_the_server_unchanged(lab: Lab) -> None:
    """yoyo cuts the files into statements itself; a cut in the wrong place would show here."""
    database = lab.database()
    migrate.apply(lab.dsn(database))
    folder = "\n".join(file.text for file in manifest())
    bodies = lab.execute(
        database, "select proname, prosrc from pg_proc where pronamespace = 'farebox'::regnamespace"
    )
    assert bodies
    for name, body in bodies:
        assert body in folder, name


def test_yoyo_cuts_the_files_where_the_server_does(lab: Lab) -> None:
    files = read_files()
    conn = lab.connect(lab.database())
    for path in [file.up for file in files] + [file.down for file in reversed(files)]:
        assert path is not None
        cursor = conn.execute(path.read_bytes())
        answers = 1
        while cursor.nextset():
            answers += 1
        _, _, statements = read_sql_migration(str(path))
        assert len(statements) == answers, path.name


def test_a_body_full_of_traps_reaches_the_server_whole(lab: Lab, tmp_path: Path) -> None:
    body = (
        TRAPS
        + "".join(f"  v_text := 'line {number}; it''s -- $a$ begin';\n" for number in range(400))
        + "end\n"
    )
    (tmp_path / "0001.set-traps.sql").write_text(
        "-- Semicolons; $$ and 'quotes in a comment.\n"
        f"create function public.traps() returns void language plpgsql as $body$\n{body}$body$;\n"
        "comment on function public.traps() is 'a; $$ b; it''s 100%';\n"
        "create function public.after() returns int language sql as $$ select 1; $$;\n"
    )
    (tmp_path / "0001.set-traps.rollback.sql").write_text(
        "drop function public.after();\ndrop function public.traps();\n"
    )
    database = lab.database()
    before = lab.catalog(database)
    assert migrate.apply(lab.dsn(database), folder=tmp_path) == ["0001.set-traps"]
    [(source, comment)] = lab.execute(
        database, "select prosrc, obj_description(oid) from pg_proc where proname = 'traps'"
    )
    assert source == f"\n{body}"
    assert comment == "a; $$ b; it's 100%"
    assert lab.execute(database, "select public.after()") == [(1,)]
    migrate.rollback(lab.dsn(database), folder=tmp_path)
    assert lab.catalog(database) == before
