"""`farebox migrate|rollback|status|sql` as people and scripts use them."""

import json

import pytest

from farebox import migrate
from farebox._migration_files import read_files
from farebox.cli.output import Exit
from farebox.errors import MigrationError
from tests.cli.commands import farebox
from tests.migrations.lab import Lab

IDS = [file.id for file in read_files()]


def test_migrate_and_status_for_people(lab: Lab) -> None:
    dsn = lab.dsn(lab.database())
    ran = farebox("status", dsn=dsn)
    assert ran.code == Exit.OK
    assert ran.out.count("pending") == len(IDS)
    assert "farebox migrate" in ran.err
    assert lab.server.password not in ran.out + ran.err
    ran = farebox("migrate", "--to", "0001", dsn=dsn)
    assert (ran.code, ran.out) == (Exit.OK, f"applied {IDS[0]}\n")
    ran = farebox("migrate", dsn=dsn)
    assert ran.out.split() == [word for name in IDS[1:] for word in ("applied", name)]
    ran = farebox("migrate", dsn=dsn)
    assert (ran.code, ran.out) == (Exit.OK, "up to date: nothing to apply\n")
    ran = farebox("status", "--check", dsn=dsn)
    assert ran.code == Exit.OK
    assert ran.err == ""
    assert "pending" not in ran.out


def test_migrate_status_and_rollback_for_programs(lab: Lab) -> None:
    dsn = lab.dsn(lab.database())
    assert json.loads(farebox("migrate", "--to", IDS[1], "--json", dsn=dsn).out) == {"applied": IDS[:2]}
    rows = [json.loads(line) for line in farebox("status", "--json", dsn=dsn).out.splitlines()]
    assert [row["id"] for row in rows] == IDS
    assert [row["state"] for row in rows] == ["applied"] * 2 + ["pending"] * (len(IDS) - 2)
    assert all(row["has_rollback"] and not row["edited"] for row in rows)
    ran = farebox("status", "--check", "--json", dsn=dsn)
    assert ran.code == Exit.FOUND
    assert json.loads(ran.err)["exit_code"] == Exit.FOUND
    ran = farebox("rollback", "--yes", "--json", dsn=dsn)
    assert json.loads(ran.out) == {"rolled_back": [IDS[1]]}
    ran = farebox("rollback", "--all", "--yes", "--json", dsn=dsn)
    assert json.loads(ran.out) == {"rolled_back": [IDS[0]]}
    assert json.loads(farebox("rollback", "--json", dsn=dsn).out) == {"rolled_back": []}


def test_a_rollback_is_not_done_unasked(lab: Lab) -> None:
    database = lab.database()
    dsn = lab.dsn(database)
    migrate.apply(dsn)
    before = lab.catalog(database)
    for options in ([], ["--all"], ["--json"], ["--count", "2"], ["--to", "0001"]):
        ran = farebox("rollback", *options, dsn=dsn)
        assert ran.code == Exit.USAGE
        assert "--yes" in ran.err
        assert IDS[-1] in ran.err
    for options in (["--all", "--count", "1"], ["--to", "0001", "--all"], ["--count", "0"]):
        assert farebox("rollback", *options, "--yes", dsn=dsn).code == Exit.USAGE
    assert lab.catalog(database) == before
    ran = farebox("rollback", "--to", "0002", "--yes", dsn=dsn)
    assert ran.code == Exit.OK
    assert ran.out.splitlines() == [f"rolled back {name}" for name in IDS[:1:-1]]
    assert farebox("rollback", "--count", "9", "--yes", dsn=dsn).code == Exit.OK
    assert farebox("rollback", dsn=dsn).out == "nothing to roll back\n"


def test_what_was_shown_is_what_is_rolled_back(lab: Lab) -> None:
    """Somebody migrates between the question and the answer."""
    dsn = lab.dsn(lab.database())
    migrate.apply(dsn, target=IDS[1])
    shown = migrate.preview_rollback(dsn)
    migrate.apply(dsn)
    with pytest.raises(MigrationError, match="meanwhile; nothing was rolled back"):
        migrate.rollback(dsn, expected=shown)
    assert all(state.applied_at for state in migrate.status(dsn))


def test_missing_rights_end_with_their_grants(lab: Lab) -> None:
    login, database = lab.login(), lab.database()
    ran = farebox("migrate", dsn=lab.dsn(database, login))
    assert ran.code == Exit.DENIED
    assert f"grant create on database {database} to {login};" in ran.err
    assert "Traceback" not in ran.err


def test_an_unknown_target_ends_with_the_known_ones(lab: Lab) -> None:
    ran = farebox("migrate", "--to", "0099", dsn=lab.dsn(lab.database()))
    assert ran.code != Exit.OK
    assert IDS[0] in ran.err


def test_break_lock(lab: Lab) -> None:
    database = lab.database()
    migrate.apply(lab.dsn(database), target=IDS[0])
    lab.execute(
        database, "insert into farebox_migrations.yoyo_lock (locked, ctime, pid) values (1, now(), 1)"
    )
    ran = farebox("migrate", "--break-lock", dsn=lab.dsn(database))
    assert ran.code == Exit.OK
    assert "removed a lock" in ran.out
    assert "there was no lock" in farebox("migrate", "--break-lock", dsn=lab.dsn(database)).out


def test_sql_is_printed_unchanged_and_needs_no_database(lab: Lab) -> None:
    assert farebox("sql").out == migrate.render()
    assert farebox("sql", "--rollback").out == migrate.render(rollback=True)
    assert json.loads(farebox("sql", "--json").out) == {"sql": migrate.render()}
    dsn = lab.dsn(lab.database())
    migrate.apply(dsn, target=IDS[0])
    assert farebox("sql", "--pending", dsn=dsn).out == migrate.render(pending_for=dsn)
    assert IDS[0] not in farebox("sql", "--pending", dsn=dsn).out.split("begin;")[0]
