# ruff: noqa: E501, ISC004 - SQL stays in one piece
"""Each thing that the doctor looks at, broken in earnest: it is found, and what the doctor prescribes mends it."""

import json
import re
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import LiteralString

import pytest

from farebox import FareboxError, doctor, migrate
from farebox.doctor import CHECKS, Level, Thresholds, _server, diagnose, repair
from farebox.doctor._expected import read_expected
from tests.cli.commands import farebox
from tests.driver.pooler import pooled
from tests.operate.support import found, treat
from tests.support.database import Database
from tests.support.servers import VERSIONS, Farm, NotAvailableError, Server, add_extension

NOW = timedelta(0)

_HEALTHY: dict[str, str | int] = {
    "shared_buffers": "160MB",
    "max_wal_size": "2GB",
    "autovacuum": "on",
    "max_prepared_transactions": 5,
    "shared_preload_libraries": "pg_stat_statements",
    "max_connections": 20,
}


@pytest.fixture(params=VERSIONS, scope="module")
def healthy(request: pytest.FixtureRequest, farm: Farm) -> Iterator[Server]:
    """A server as it should be."""
    try:
        with farm.private(request.param, **_HEALTHY) as server:
            server.create_database("nursery", tap=None)
            migrate.apply(server.dsn("nursery"))
            with server.connect("nursery") as conn:
                add_extension(conn, "pg_stat_statements", "postgresql-15")
            yield server
    except NotAvailableError as reason:
        pytest.skip(str(reason))


@pytest.fixture
def clinic(healthy: Server) -> Iterator[Database]:
    """A migrated database on it, with nothing wrong."""
    with healthy.connect() as conn:
        conn.execute("create database clinic template nursery strategy file_copy")
    database = Database(healthy, "clinic")
    yield database
    database.close()


# -- a healthy one ------------------------------------------------------------------------------------------


def test_a_database_as_it_should_be_is_fine_in_every_check(clinic: Database) -> None:
    findings = list(diagnose(clinic.dsn))
    assert [each for each in findings if each.level is not Level.OK] == []
    checks = [check.name for check in CHECKS if check.only_on is None]
    assert [each.check for each in findings] == checks
    ran = farebox("doctor", dsn=clinic.dsn)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines()[-1] == f"{len(checks)} fine, 0 warnings, 0 problems"
    assert farebox("doctor", "--quiet", "--json", dsn=clinic.dsn).rows == []


def test_the_expectations_are_read_from_the_sql_and_are_whole(db: Database) -> None:
    expected = read_expected()
    functions = {
        name
        for (name,) in db.execute(
            "select proname from pg_catalog.pg_proc where pronamespace = 'farebox'::regnamespace"
        )
    }
    # Made by a DO block, with a body for each version.
    assert functions - expected.functions.keys() == {"_uuid_v7"}
    indexes = {
        name
        for (name,) in db.execute(
            "select relname from pg_catalog.pg_class as c"
            " where relnamespace = 'farebox'::regnamespace and relkind = 'i'"
            " and not exists (select from pg_catalog.pg_constraint where conindid = c.oid)"
        )
    }
    assert indexes == expected.indexes.keys()
    constraints = set(
        db.execute(
            "select c.relname, n.conname from pg_catalog.pg_constraint as n"
            " join pg_catalog.pg_class as c on c.oid = n.conrelid"
            " where n.connamespace = 'farebox'::regnamespace and n.contype <> 'n'"
        )
    )
    assert constraints == expected.constraints.keys()
    tables = db.execute(
        "select relname, relrowsecurity from pg_catalog.pg_class"
        " where relnamespace = 'farebox'::regnamespace and relkind = 'r'"
    )
    assert {name for name, _ in tables} == expected.tables
    assert {name for name, is_secured in tables if is_secured} == expected.secured
    assert set(
        db.execute(
            "select t.tgname, c.relname from pg_catalog.pg_trigger as t"
            " join pg_catalog.pg_class as c on c.oid = t.tgrelid"
            " where c.relnamespace = 'farebox'::regnamespace and not t.tgisinternal"
        )
    ) == {(trigger.name, trigger.table) for trigger in expected.triggers.values()}
    assert {
        name
        for (name,) in db.execute(
            "select relname from pg_catalog.pg_class"
            " where relnamespace = 'farebox'::regnamespace and relkind = 'S'"
        )
    } == expected.sequences.keys()
    assert len(expected.policies) == db.value(
        "select count(*) from pg_catalog.pg_policies where schemaname = 'farebox'"
    )


# -- the server ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("check", "level", "words"),
    [
        (
            "durability",
            Level.PROBLEM,
            ["fsync is off", "full_page_writes is off", "synchronous_commit is off"],
        ),
        ("memory", Level.WARNING, ["shared_buffers is 128MB"]),
        ("wal", Level.WARNING, ["max_wal_size is 256MB"]),
        ("autovacuum", Level.PROBLEM, ["autovacuum is off"]),
        ("extensions", Level.WARNING, ["pg_stat_statements is not installed here"]),
    ],
)
def test_settings_that_are_wrong(db: Database, check: str, level: Level, words: list[str]) -> None:
    """The shared test servers are badly kept on purpose: nothing of theirs has to last."""
    findings = found(db.dsn, check)
    assert [each.message for each in findings] == words
    assert {each.level for each in findings} == {level}


@pytest.mark.parametrize(
    "broken",
    [
        "alter database clinic set synchronous_commit = off",
        "alter role postgres set synchronous_commit = off",
        "alter role postgres in database clinic set synchronous_commit = off",
    ],
)
def test_durability_taken_away_from_some_only(clinic: Database, broken: LiteralString) -> None:
    clinic.execute(broken)
    [finding] = found(clinic.dsn, "durability")[-1:]
    assert "synchronous_commit is off for role" in finding.message
    treat(clinic, finding)
    clinic.execute("alter database clinic reset synchronous_commit")
    assert found(clinic.dsn, "durability") == []


def test_a_compression_that_costs_more_than_it_saves(clinic: Database) -> None:
    clinic.execute("alter database clinic set wal_compression = on")
    [finding] = found(clinic.dsn, "wal")
    assert "pglz" in finding.message
    assert finding.fix is not None
    with clinic.connect(autocommit=True) as conn:
        for statement in finding.fix.split("; "):  # a statement that cannot share its transaction
            conn.execute(statement.encode())
    clinic.execute("alter database clinic reset wal_compression")
    assert found(clinic.dsn, "wal") == []


def test_a_table_that_autovacuum_leaves_out(clinic: Database) -> None:
    clinic.execute("alter table farebox.tickets set (autovacuum_enabled = false)")
    [finding] = found(clinic.dsn, "autovacuum")
    assert "farebox.tickets" in finding.message
    treat(clinic, finding)
    assert found(clinic.dsn, "autovacuum") == []


def test_connections_that_run_out(clinic: Database) -> None:
    for _ in range(15):
        clinic.connect()
    [finding] = found(clinic.dsn, "connections", connections_problem=0.9)
    assert "of 17 connections are in use" in finding.message
    assert finding.level is Level.PROBLEM


def test_a_clock_that_somebody_stopped(clinic: Database) -> None:
    clinic.advance_clock(timedelta(hours=1))
    [finding] = found(clinic.dsn, "clock")
    assert finding.level is Level.PROBLEM
    assert "3600 s off" in finding.message
    treat(clinic, finding)
    assert found(clinic.dsn, "clock") == []


def test_a_server_whose_clock_differs_from_ours(clinic: Database) -> None:
    [finding] = found(
        clinic.dsn, "clock", clock_warning=timedelta(hours=-1), clock_problem=timedelta(hours=1)
    )[:1]
    assert finding.level is Level.WARNING


def test_transaction_ids_that_grow_old(clinic: Database) -> None:
    age = clinic.value("select age(datfrozenxid) from pg_catalog.pg_database where datname = 'clinic'")
    [finding] = found(clinic.dsn, "transaction ids", id_age_warning=age)
    assert finding.level is Level.WARNING
    assert (
        found(clinic.dsn, "transaction ids", id_age_warning=age, id_age_problem=age)[0].level is Level.PROBLEM
    )


def test_libraries_that_are_loaded_stay(db: Database) -> None:
    """Seen to fail: the server would have been left with pg_stat_statements alone, without pg_cron say."""
    [finding] = found(db.dsn, "extensions")
    conn = db.connect(autocommit=True)
    conn.execute(str(finding.fix).partition(";")[0].encode())
    file = conn.execute(
        "select setting from pg_file_settings"
        " where name = 'shared_preload_libraries' and sourcefile like '%auto.conf'"
    ).fetchone()
    conn.execute("alter system reset shared_preload_libraries")
    assert file == ("plpgsql, pg_stat_statements",)


def test_a_replication_slot_that_nobody_reads(clinic: Database, tmp_path: Path) -> None:
    clinic.execute("select pg_create_physical_replication_slot('forgotten', true)")
    [finding] = found(clinic.dsn, "replication slots")
    assert "forgotten" in finding.message
    assert found(clinic.dsn, "replication slots", retained_wal=-1)[0].level is Level.PROBLEM
    program = clinic.server.cluster.installation.bin / "pg_receivewal"
    command = [str(program), "-D", str(tmp_path), "-S", "forgotten", "-d", clinic.dsn]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as reader:
        clinic.wait_until("select active from pg_replication_slots")
        [behind] = found(clinic.dsn, "replication slots", retained_wal=-1)
        reader.terminate()
    # Its slot cannot be dropped, nor should it be.
    assert "drop" not in str(behind.fix)
    clinic.wait_until("select not active from pg_replication_slots")
    treat(clinic, finding)
    assert found(clinic.dsn, "replication slots") == []


def test_a_pooler_in_between_is_told(farm: Farm, db: Database) -> None:
    with pooled(farm, db.dsn) as dsn:
        [finding] = [each for each in diagnose(dsn) if each.check == "pooler"]
        assert "a pooler stands between" in finding.message
        assert farebox("doctor", "--quick", dsn=dsn).code == 6


def test_one_connection_is_enough_for_the_doctor(farm: Farm, db: Database) -> None:
    """Seen to fail when the migrations are read while a check's transaction is open: then it waits for itself."""
    with pooled(farm, db.dsn, pool_size=1, query_wait_timeout=3) as dsn:
        findings = list(diagnose(dsn))
        assert [each.message for each in findings if "could not be checked" in each.message] == []
        assert {each.check for each in findings} == {each.name for each in CHECKS if each.only_on is None}


def test_a_repair_through_a_pooler_leaves_no_role_to_who_comes_next(farm: Farm, db: Database) -> None:
    """Seen to fail with `set role` in a transaction of its own: when the next statement fails, it stays."""
    db.execute("revoke execute on function farebox.verify() from farebox_worker")
    with pooled(farm, db.dsn, pool_size=1) as dsn:
        [finding] = found(dsn, "grants")
        db.execute("drop function farebox.verify()")
        with pytest.raises(FareboxError):
            repair(dsn, finding)
        with db.connect(dsn=dsn) as conn:
            assert conn.execute("select current_user").fetchone() == ("postgres",)


def test_what_others_prepared_through_a_pooler_is_told(farm: Farm, db: Database) -> None:
    """A transaction pooler that does not track prepared statements leaves them to whoever comes next."""
    with pooled(farm, db.dsn, pool_size=2) as dsn:
        # At the same time, so that each gets a session of the server to itself; the doctor then gets either.
        both = [db.connect(dsn=dsn), db.connect(dsn=dsn)]
        for conn in both:
            conn.execute("prepare left_over as select 1")
        for conn in both:
            conn.commit()
        [finding] = found(dsn, "pooler")
        assert "1 prepared statements of others are in this session" in finding.message
        assert "max_prepared_statements" in str(finding.fix)


@pytest.mark.parametrize(
    ("oldest", "newest", "level", "words"),
    [(990_000, 99, Level.PROBLEM, "is too old"), (150_000, 14, Level.WARNING, "is newer than any")],
)
def test_a_version_that_nobody_has_tested(
    db: Database, monkeypatch: pytest.MonkeyPatch, oldest: int, newest: int, level: Level, words: str
) -> None:
    """The servers here are good ones, so what counts as good is moved instead."""
    monkeypatch.setattr(_server, "OLDEST_SERVER", oldest)
    monkeypatch.setattr(_server, "_NEWEST_TESTED", newest)
    [finding] = found(db.dsn, "version")
    assert (finding.level, words in finding.message) == (level, True)


# -- the schema ---------------------------------------------------------------------------------------------


def test_migrations_that_are_pending(blank_db: Database) -> None:
    [finding] = found(blank_db.dsn, "migrations")
    assert (finding.level, finding.fix) == (Level.PROBLEM, "farebox migrate")
    assert "0001.create-schema" in finding.message
    assert farebox("migrate", dsn=blank_db.dsn).code == 0
    assert found(blank_db.dsn, "migrations") == []


def test_migrations_that_were_edited_or_are_from_the_future(clinic: Database) -> None:
    clinic.execute(
        "update farebox_migrations._yoyo_log set comment = 'sha256:0' where migration_id like '0002%%'"
    )
    [finding] = found(clinic.dsn, "migrations")
    assert (finding.level, "0002.create-tables" in finding.message) == (Level.PROBLEM, True)
    clinic.execute(
        "insert into farebox_migrations._yoyo_migration (migration_hash, migration_id, applied_at_utc)"
        " values ('x', '9999.from-the-future', now())"
    )
    assert "9999.from-the-future" in found(clinic.dsn, "migrations")[1].message


_MENDED_BY_ITS_FIX: dict[str, tuple[str, str, str]] = {
    "index missing": ("indexes", "idx_tickets_pending", "drop index farebox.idx_tickets_pending"),
    "unique index missing": (
        "indexes",
        "idx_tickets_transaction_lookup",
        "drop index farebox.idx_tickets_transaction_lookup",
    ),
    "index invalid": (
        "indexes",
        "not valid",
        "update pg_catalog.pg_index set indisvalid = false where indexrelid = 'farebox.idx_tickets_phone_company'::regclass",
    ),
    "primary key invalid": (
        "indexes",
        "not valid",
        "update pg_catalog.pg_index set indisvalid = false where indexrelid = 'farebox.tickets_pkey'::regclass",
    ),
    "strange index invalid": (
        "indexes",
        "not valid",
        "create index half_done on farebox.tickets (amount);"
        " update pg_catalog.pg_index set indisvalid = false where indexrelid = 'farebox.half_done'::regclass",
    ),
    "constraint missing": (
        "tables",
        "tickets_amount_is_in_range",
        "alter table farebox.tickets drop constraint tickets_amount_is_in_range",
    ),
    "primary key missing": (
        "tables",
        "tickets_pkey",
        "alter table farebox.tickets drop constraint tickets_pkey",
    ),
    "constraint not validated": (
        "tables",
        "never validated",
        "alter table farebox.tickets drop constraint tickets_status_is_known; alter table farebox.tickets add"
        " constraint tickets_status_is_known check (status in ('pending', 'used', 'expired', 'cancelled')) not valid",
    ),
    "sequence missing": (
        "tables",
        "the sequence farebox.ticket_queue_sweep is missing",
        "drop sequence farebox.ticket_queue_sweep",
    ),
    "trigger missing": (
        "triggers",
        "payment_codes_status_follows_terms of farebox.payment_codes is missing",
        "drop trigger payment_codes_status_follows_terms on farebox.payment_codes",
    ),
    "trigger disabled": (
        "triggers",
        "routes_with_tickets_stay of farebox.routes is disabled",
        "alter table farebox.routes disable trigger routes_with_tickets_stay",
    ),
    "function edited": (
        "functions",
        "its body",
        "create or replace function farebox._phone(p_text text) returns text language sql immutable as 'select p_text'",
    ),
    "search_path lost": (
        "functions",
        "its settings",
        "alter function farebox.get_ticket(uuid, uuid) reset search_path",
    ),
    "definer lost": (
        "functions",
        "security definer",
        "alter function farebox.get_ticket(uuid, uuid) security invoker",
    ),
    "function of another owner": (
        "functions",
        "belongs to",
        "alter function farebox.verify() owner to postgres",
    ),
    "table of another owner": ("roles", "belongs to", "alter table farebox.companies owner to postgres"),
    "row security off": (
        "roles",
        "row-level security of farebox.tickets is off",
        "alter table farebox.tickets disable row level security",
    ),
    "row security of the queue off": (
        "roles",
        "row-level security of farebox.ticket_queue is off",
        "alter table farebox.ticket_queue disable row level security",
    ),
    "group that logs in": ("roles", "nologin", "alter role farebox_app login"),
    "group that passes policies": ("roles", "nobypassrls", "alter role farebox_company bypassrls"),
    "grant missing": (
        "grants",
        "farebox_app lacks execute on function farebox.create_tickets(json)",
        "revoke execute on function farebox.create_tickets(json) from farebox_app",
    ),
    "schema grant missing": (
        "grants",
        "farebox_app lacks usage",
        "revoke usage on schema farebox from farebox_app",
    ),
    "column grant missing": (
        "grants",
        "farebox_admin lacks update (status) on farebox.payment_codes",
        "revoke update (status) on farebox.payment_codes from farebox_admin",
    ),
    "grant too many": (
        "grants",
        "farebox_app has insert on farebox.tickets",
        "grant insert on farebox.tickets to farebox_app",
    ),
    "column grant too many": (
        "grants",
        "farebox_admin has update (used_tickets) on farebox.payment_codes",
        "grant update (used_tickets) on farebox.payment_codes to farebox_admin",
    ),
    "open to all": (
        "grants",
        "PUBLIC has execute on function farebox.verify()",
        "grant execute on function farebox.verify() to public",
    ),
}


@pytest.mark.parametrize(("check", "words", "broken"), _MENDED_BY_ITS_FIX.values(), ids=_MENDED_BY_ITS_FIX)
def test_what_was_changed_by_hand(clinic: Database, check: str, words: str, broken: str) -> None:
    with clinic.connect(autocommit=True) as conn:
        conn.execute(broken.encode())
    findings = found(clinic.dsn, check)
    assert [words in each.message for each in findings] == [True]
    # Nothing reads a whole table while it keeps those out who sell.
    assert not re.search(r"add constraint \w+ (check|foreign key)(?!.* not valid;)", str(findings[0].fix))
    treat(clinic, findings[0])
    assert found(clinic.dsn, check) == []


def test_an_index_that_is_being_built_is_left_alone(clinic: Database) -> None:
    seller, builder = clinic.connect(), clinic.connect(autocommit=True)
    company = clinic.company()
    payment = clinic.payment(company, clinic.route(company))
    seller.execute("select * from farebox.create_ticket(%s::json)", [json.dumps(payment)])
    builder.pgconn.send_query(b"create index concurrently in_work on farebox.tickets (amount)")
    clinic.wait_until_blocked(builder)
    assert clinic.value("select not indisvalid from pg_index where indexrelid = 'farebox.in_work'::regclass")
    assert found(clinic.dsn, "indexes") == []
    seller.commit()
    while builder.pgconn.get_result():
        pass
    assert found(clinic.dsn, "indexes") == []


def test_a_function_that_is_missing(clinic: Database) -> None:
    clinic.execute("drop function farebox.company_summary(uuid, timestamptz, timestamptz)")
    [finding] = found(clinic.dsn, "functions")
    assert "company_summary is missing" in finding.message
    treat(clinic, finding)
    assert found(clinic.dsn, "functions") == []
    assert len(found(clinic.dsn, "grants")) == 1
    farebox("doctor", "--fix", "--quick", dsn=clinic.dsn)
    assert found(clinic.dsn, "grants") == []


def test_a_table_that_is_missing(clinic: Database) -> None:
    clinic.execute("drop table farebox.company_logins cascade")
    assert "farebox.company_logins is missing" in found(clinic.dsn, "tables")[0].message


def test_a_policy_that_is_missing(clinic: Database) -> None:
    clinic.execute("drop policy tickets_own_rows on farebox.tickets")
    [finding] = found(clinic.dsn, "roles")
    assert "tickets_own_rows" in finding.message


def test_an_index_of_others_that_is_not_used(clinic: Database) -> None:
    clinic.execute("create index by_otp on farebox.tickets (monime_otp)")
    clinic.execute("analyze farebox.tickets")
    clinic.execute("select pg_stat_reset()")
    [finding] = found(clinic.dsn, "unused indexes", unused_index_rows=0)
    assert "by_otp" in finding.message
    assert re.search(r"never used since 20\d\d-", finding.message)
    treat(clinic, finding)
    assert found(clinic.dsn, "unused indexes", unused_index_rows=0) == []


# -- the tables ---------------------------------------------------------------------------------------------


def _fill(db: Database, tickets: int) -> None:
    company = db.company()
    route = db.route(company)
    batch = [db.payment(company, route) for _ in range(tickets)]
    db.execute("select count(*) from farebox.create_tickets(%s::json)", [json.dumps(batch)])
    db.execute("select pg_stat_force_next_flush()")
    db.execute("select 1")


def test_statistics_that_are_stale(db: Database) -> None:
    _fill(db, 100)
    findings = found(db.dsn, "statistics", changed_rows_least=100)
    assert {each.message.split(" rows of ")[1].split()[0] for each in findings} == {
        "farebox.tickets",
        "farebox.transactions",
    }
    for finding in findings:
        treat(db, finding)
    assert found(db.dsn, "statistics", changed_rows_least=100) == []


def test_dead_rows_that_pile_up(db: Database) -> None:
    _fill(db, 100)
    db.execute("update farebox.tickets set status = 'used'")
    db.execute("select pg_stat_force_next_flush()")
    db.execute("select 1")
    [finding] = found(db.dsn, "dead rows", dead_rows_least=50)
    assert "100 dead rows in farebox.tickets" in finding.message
    treat(db, finding)
    assert found(db.dsn, "dead rows", dead_rows_least=50) == []


def test_bloat(db: Database) -> None:
    _fill(db, 5000)
    # The last stay, so that vacuum cannot cut the file.
    db.execute(
        "delete from farebox.tickets where id < (select id from farebox.tickets order by id desc offset 99 limit 1)"
    )
    db.execute("vacuum (analyze) farebox.tickets")
    names = {
        each.message.split(" of ")[1].split(" is ")[0] for each in found(db.dsn, "bloat", bloat_bytes=100_000)
    }
    assert {"farebox.tickets", "farebox.tickets_pkey", "farebox.idx_tickets_transaction_lookup"} <= names
    for finding in found(db.dsn, "bloat", bloat_bytes=100_000):
        treat(db, finding)
    db.execute("analyze farebox.tickets")
    assert found(db.dsn, "bloat", bloat_bytes=100_000) == []


def test_a_dump_that_left_the_marks_behind(clinic: Database) -> None:
    """As one of the schema alone does: nothing is counted until they are back."""
    clinic.execute("truncate farebox.tally")
    [finding] = found(clinic.dsn, "counting")
    treat(clinic, finding)
    assert found(clinic.dsn, "counting") == []
    company = clinic.company()
    payment = clinic.payment(company, clinic.route(company))
    clinic.execute("select from farebox.create_tickets(%s::json)", [json.dumps([payment] * 501)])
    clinic.execute("select pg_stat_force_next_flush()")
    read = "select pg_stat_get_tuples_returned('farebox.idx_tally_duplicates'::regclass)"
    assert clinic.value(read) == 500


# -- the sessions -------------------------------------------------------------------------------------------


def test_transactions_that_stay_open(clinic: Database) -> None:
    sleeper = clinic.connect()
    sleeper.execute("select 1")
    assert found(clinic.dsn, "transactions") == []
    [finding] = found(clinic.dsn, "transactions", idle_in_transaction=NOW)
    assert "has been idle" in finding.message
    [finding] = found(clinic.dsn, "transactions", transaction_warning=NOW)
    assert (finding.level, str(sleeper.info.backend_pid) in finding.message) == (Level.WARNING, True)
    assert (
        found(clinic.dsn, "transactions", transaction_warning=NOW, transaction_problem=NOW)[0].level
        is Level.PROBLEM
    )
    # Of one that is at work the doctor cannot know whether it is the nightly backup.
    sleeper.pgconn.send_query(b"select pg_sleep(60)")
    clinic.wait_until(
        "select state = 'active' from pg_stat_activity where pid = %s", [sleeper.info.backend_pid]
    )
    [finding] = found(clinic.dsn, "transactions", transaction_warning=NOW)
    assert "unless it is a backup" in str(finding.fix)
    treat(clinic, finding)
    clinic.wait_until(
        "select not exists (select from pg_stat_activity where pid = %s)", [sleeper.info.backend_pid]
    )
    assert found(clinic.dsn, "transactions", transaction_warning=NOW) == []


def test_a_prepared_transaction_that_nobody_finishes(clinic: Database) -> None:
    with clinic.connect(autocommit=True) as conn:
        conn.execute("begin")
        conn.execute("lock table farebox.companies in share mode")
        conn.execute("prepare transaction 'forgotten'")
    [finding] = found(clinic.dsn, "prepared transactions")
    assert "'forgotten'" in finding.message
    waiter = clinic.connect(autocommit=True)
    waiter.pgconn.send_query(b"update farebox.companies set name = 'x'")
    clinic.wait_until_blocked(waiter)
    [lock] = found(clinic.dsn, "locks")
    assert "held by a prepared transaction" in lock.message
    assert lock.fix == "what the check `prepared transactions` says"
    old = [str(each.fix) for each in found(clinic.dsn, "snapshots", snapshot_age_warning=-1)]
    assert [fix for fix in old if fix.startswith("rollback prepared")] == [finding.fix]
    treat(clinic, finding)
    assert found(clinic.dsn, "prepared transactions") == []
    waiter.pgconn.get_result()


def test_a_snapshot_that_holds_back_vacuum(clinic: Database) -> None:
    reader = clinic.connect()
    reader.execute("set transaction isolation level repeatable read")
    reader.execute("select 1 from farebox.companies")
    for _ in range(3):
        clinic.company()
    messages = [each.message for each in found(clinic.dsn, "snapshots", snapshot_age_warning=3)]
    assert [f"pid {reader.info.backend_pid} of postgres" in message for message in messages] == [True]
    assert found(clinic.dsn, "snapshots") == []


def test_who_blocks_whom(clinic: Database) -> None:
    holder, waiter = clinic.connect(), clinic.connect(autocommit=True)
    holder.execute("lock table farebox.companies")
    waiter.pgconn.send_query(b"select count(*) from farebox.companies")
    clinic.wait_until_blocked(waiter)
    [finding] = found(clinic.dsn, "locks")
    assert finding.level is Level.WARNING
    assert f"pid {waiter.info.backend_pid} of postgres has waited" in finding.message
    assert "AccessShareLock on farebox.companies" in finding.message
    assert f"held by pid {holder.info.backend_pid}" in finding.message
    assert found(clinic.dsn, "locks", blocked_problem=NOW)[0].level is Level.PROBLEM
    treat(clinic, finding)
    waiter.pgconn.get_result()
    assert found(clinic.dsn, "locks") == []


def test_a_batch_that_takes_long(clinic: Database) -> None:
    holder, seller = clinic.connect(), clinic.connect(autocommit=True)
    holder.execute("lock table farebox.tickets")
    seller.pgconn.send_query(b"select * from farebox.create_tickets('[]')")
    clinic.wait_until_blocked(seller)
    findings = found(clinic.dsn, "slow batches", batch_warning=NOW)
    assert f"pid {seller.info.backend_pid} has been at a batch for" in findings[0].message
    assert "Lock/relation" in findings[0].message
    assert found(clinic.dsn, "slow batches", batch_warning=NOW, batch_problem=NOW)[0].level is Level.PROBLEM
    holder.rollback()
    seller.pgconn.get_result()
    # Over now, but it has left its trace.
    clinic.wait_until(
        "select not exists (select from pg_stat_activity where pid = %s and state = 'active')",
        [seller.info.backend_pid],
    )
    messages = [each.message for each in found(clinic.dsn, "slow batches", batch_warning=NOW)]
    assert ["farebox.create_tickets" in message for message in messages] == [True]
    assert "calls took" in messages[0]


# -- the queue ------------------------------------------------------------------------------------------------


def _enqueue(db: Database, count: int) -> None:
    company = db.company()
    payments = [db.payment(company, db.route(company)) for _ in range(count)]
    db.execute("select count(*) from farebox.enqueue_tickets(%s::json)", [json.dumps(payments)])


def test_a_queue_that_nobody_works_on(clinic: Database) -> None:
    _enqueue(clinic, 5)
    [finding] = found(clinic.dsn, "queue")
    assert (finding.level, finding.message) == (
        Level.WARNING,
        "5 requests are queued and no worker is connected",
    )
    assert finding.fix == "farebox worker"
    assert farebox("worker", "--drain", dsn=clinic.dsn).code == 0
    assert found(clinic.dsn, "queue") == []


def test_a_queue_that_is_long_although_workers_work(clinic: Database) -> None:
    clinic.connect(dsn=f"{clinic.dsn}?application_name=farebox%20worker")
    _enqueue(clinic, 5)
    assert found(clinic.dsn, "queue") == []
    [finding] = found(clinic.dsn, "queue", queue_warning=4)
    assert (finding.level, finding.message) == (
        Level.WARNING,
        "5 requests are queued, 1 workers are connected",
    )
    assert found(clinic.dsn, "queue", queue_warning=4, queue_problem=4)[0].level is Level.PROBLEM


def test_requests_that_died_in_the_queue(clinic: Database) -> None:
    """A conflict: what came later with another amount can never be a ticket, and a person has to look."""
    company = clinic.company()
    payment = clinic.payment(company, clinic.route(company))
    batch = [payment, payment | {"amount": 4999}]
    clinic.execute("select count(*) from farebox.enqueue_tickets(%s::json)", [json.dumps(batch)])
    assert farebox("worker", "--drain", dsn=clinic.dsn).code == 0
    [finding] = found(clinic.dsn, "queue")
    assert (finding.level, finding.message) == (Level.WARNING, "1 dead requests are in the queue")
    [dead] = farebox("queue", "dead", "--json", dsn=clinic.dsn).rows
    assert dead["reason"] == "conflict"
    assert farebox("queue", "drop", "--yes", dead["key"], dsn=clinic.dsn).code == 0
    assert found(clinic.dsn, "queue") == []


# -- the money ----------------------------------------------------------------------------------------------


def test_payments_without_a_ticket(db: Database) -> None:
    company = db.company()
    payment = db.payment(company, db.route(company, status="inactive"))
    db.execute("select count(*) from farebox.create_tickets(%s::json)", [json.dumps([payment])])
    [finding] = found(db.dsn, "unapplied payments")
    assert (finding.level, "1 route_inactive" in finding.message) == (Level.WARNING, True)
    db.execute("update farebox.unapplied_payments set first_seen_at = first_seen_at - interval '8 days'")
    assert found(db.dsn, "unapplied payments")[0].level is Level.PROBLEM


def test_codes_that_run_out_or_are_over(db: Database) -> None:
    company = db.company()
    route = db.route(company)
    batch = [db.payment(company, route, payment_code=db.code(company, 2), amount=5000)]
    db.execute("update farebox.payment_codes set total_tickets = 10")
    code = batch[0]["payment_code"]
    batch += [db.payment(company, route, payment_code=code) for _ in range(8)]
    db.execute("select count(*) from farebox.create_tickets(%s::json)", [json.dumps(batch)])
    [finding] = found(db.dsn, "payment codes")
    assert "1 active payment codes are 90 % spent" in finding.message
    db.execute("update farebox.payment_codes set total_tickets = 100, expires_at = now() - interval '1 day'")
    [finding] = found(db.dsn, "payment codes")
    assert "past their end" in finding.message
    farebox("doctor", "--fix", dsn=db.dsn)
    assert found(db.dsn, "payment codes") == []


def test_records_that_are_missing_and_written_by_fix(clinic: Database) -> None:
    _fill(clinic, 3)
    clinic.execute("delete from farebox.transactions")
    [finding] = found(clinic.dsn, "records")
    assert "3 tickets have no transaction record" in finding.message
    assert farebox("doctor", dsn=clinic.dsn).code == 1
    assert farebox("doctor", "--quick", dsn=clinic.dsn).code == 0
    assert farebox("doctor", "--fix", dsn=clinic.dsn).code == 0
    assert clinic.value("select count(*) from farebox.transactions") == 3


def test_a_promise_that_is_broken(db: Database) -> None:
    db.code(db.company(), 5)
    db.execute("update farebox.payment_codes set used_tickets = 2")
    [finding] = found(db.dsn, "verify")
    assert (finding.level, "code_counter_is_exact" in finding.message) == (Level.PROBLEM, True)
    assert farebox("doctor", dsn=db.dsn).code == 6


def test_a_check_that_takes_too_long_says_so(clinic: Database) -> None:
    clinic.connect().execute("lock table farebox.tickets")
    findings = [
        each
        for each in diagnose(clinic.dsn, thresholds=Thresholds(verify_timeout=timedelta(milliseconds=200)))
        if each.check in ("records", "verify")
    ]
    assert ["could not be checked: it took too long" in each.message for each in findings] == [True, True]


# -- the command --------------------------------------------------------------------------------------------


def test_a_login_with_few_rights_gets_what_it_may_see(db: Database) -> None:
    dsn = db.login("farebox_app")
    findings = list(diagnose(dsn))
    assert any("may not look" in each.message and "grant" in str(each.fix) for each in findings)
    assert {each.check for each in findings} >= {"version", "memory", "indexes", "grants"}


def test_json_for_programs(clinic: Database) -> None:
    clinic.execute("drop index farebox.idx_tickets_pending")
    ran = farebox("doctor", "--json", "--quiet", dsn=clinic.dsn)
    assert ran.code == 6
    [row] = ran.rows
    assert row["check"] == "indexes"
    assert row["level"] == "problem"
    assert row["safe_to_fix"] is True
    assert row["fix"].startswith("create index concurrently idx_tickets_pending")
    assert set(row) == {"check", "level", "message", "why", "fix", "safe_to_fix"}


def test_fix_mends_and_looks_again(clinic: Database) -> None:
    clinic.execute("drop index farebox.idx_tickets_pending")
    clinic.execute("revoke execute on function farebox.create_ticket(json) from farebox_app")
    ran = farebox("doctor", "--fix", dsn=clinic.dsn)
    assert (ran.code, ran.err.count("mended: ")) == (0, 2)
    assert farebox("doctor", dsn=clinic.dsn).code == 0


def test_what_cannot_be_mended_is_told(clinic: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does a repair stand in line for a table: those who sell would wait behind it."""
    monkeypatch.setattr(doctor, "_LOCK_PATIENCE", timedelta(milliseconds=100))
    clinic.execute("alter table farebox.tickets disable row level security")
    reader = clinic.connect()
    reader.execute("select from farebox.tickets")
    ran = farebox("doctor", "--fix", "--quick", dsn=clinic.dsn)
    assert ran.code == 6
    assert re.search(r"could not mend: row-level security .* \[55P03\]", ran.err)
    reader.close()
    _fill(clinic, 2)
    clinic.execute("drop index farebox.idx_tickets_transaction_lookup")
    clinic.execute("update farebox.tickets set monime_transaction_id = 'the same'")
    ran = farebox("doctor", "--fix", "--quick", dsn=clinic.dsn)
    assert ran.code == 6
    assert "could not mend" in ran.err


def test_no_connection_is_an_error_of_its_own(tmp_path: Path) -> None:
    assert farebox("doctor", dsn=f"host={tmp_path} connect_timeout=2").code == 3


def test_the_doctor_does_not_stand_in_line_for_a_lock(db: Database) -> None:
    holder = db.connect()
    holder.execute("lock table farebox.tickets")
    ran = farebox("doctor", "--json", dsn=db.dsn)
    assert ran.code == 6
    unchecked = {row["check"] for row in ran.rows if "somebody has locked" in row["message"]}
    assert {"bloat", "verify"} <= unchecked


def test_the_exit_code_goes_by_the_worst_finding(clinic: Database) -> None:
    """0: all well; 1: warnings at most; 6: a problem, whatever else there is."""
    assert farebox("doctor", dsn=clinic.dsn).code == 0
    _enqueue(clinic, 1)
    assert farebox("doctor", dsn=clinic.dsn).code == 1
    clinic.execute("revoke execute on function farebox.create_ticket(json) from farebox_app")
    assert farebox("doctor", dsn=clinic.dsn).code == 6


def test_fix_leaves_alone_what_is_not_safe(clinic: Database) -> None:
    """Sessions are not ended, rights not taken, nothing is removed, no function's text is overwritten."""
    sleeper = clinic.connect()
    sleeper.execute("select pg_sleep(0)")
    clinic.execute("grant insert on farebox.tickets to farebox_app")
    clinic.execute("create index half_done on farebox.tickets (amount)")
    clinic.execute(
        "update pg_catalog.pg_index set indisvalid = false where indexrelid = 'farebox.half_done'::regclass"
    )
    clinic.execute(
        "create or replace function farebox._phone(p_text text) returns text language sql immutable as 'select p_text'"
    )
    _enqueue(clinic, 1)
    assert farebox("doctor", "--fix", dsn=clinic.dsn).code == 6
    assert sleeper.execute("select 1").fetchone() == (1,)
    assert clinic.value("select has_table_privilege('farebox_app', 'farebox.tickets', 'insert')")
    assert clinic.value("select to_regclass('farebox.half_done') is not null")
    assert clinic.value("select prosrc from pg_catalog.pg_proc where proname = '_phone'") == "select p_text"
    assert clinic.value("select farebox.queue_size()") == 1


def test_every_check_is_broken_by_a_test_of_this_file() -> None:
    """`found(…, "check")` and the cases of the tables above; a new check needs a test here.

    Those of routers are broken in `tests/shards/test_doctor.py`.
    """
    text = Path(__file__).read_text()
    told = set(re.findall(r'found\(\s*\w+(?:\.dsn)?,\s*"([a-z ]+)"', text)) | set(
        re.findall(r'^ +\(?\s*"([a-z ]+)",(?: Level|$| ")', text, re.MULTILINE)
    )
    told |= {check for check, _, _ in _MENDED_BY_ITS_FIX.values()}
    assert {check.name for check in CHECKS if check.only_on is None} - told == set()
