# ruff: noqa: E501 - SQL stays in one piece
"""`farebox maintain`: each task does its work, may be run by a worker, twice at once, and through a pooler."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import UUID

from farebox.monitoring import upkeep
from tests.cli.commands import farebox, run
from tests.operate.support import found
from tests.support.database import Database


def neglect(db: Database) -> UUID:
    """A database in need of every task: returns the route that was closed and is open again."""
    company = db.company()
    route = db.route(company)
    closed = db.route(company, status="inactive")
    code = db.code(company, 5)
    batch = [db.payment(company, route) for _ in range(3)] + [db.payment(company, closed) for _ in range(4)]
    db.execute("select count(*) from farebox.create_tickets(%s::json)", [json.dumps(batch)])
    db.execute(
        "update farebox.payment_codes set expires_at = now() - interval '1 hour' where code = %s", [code]
    )
    db.execute("delete from farebox.transactions")
    db.execute("update farebox.routes set status = 'active'")
    db.execute(
        "insert into farebox.unapplied_payments (monime_transaction_id, request, reason, resolved_at, ticket_id)"
        " select 'pay-old', '{}', 'route_inactive', now() - interval '366 days', id from farebox.tickets limit 1"
    )
    db.execute(
        "insert into farebox.ticket_queue_dead (id, request, reason, first_seen_at, last_seen_at, fingerprint)"
        " values (1, '{}', 'conflict', now(), now() - interval '91 days', 'x')"
    )
    return closed


def done(out: list[dict[str, int]]) -> dict[str, int]:
    return {str(row["task"]): row["done"] for row in out}


def test_everything_that_needs_doing_is_done_once(db: Database) -> None:
    neglect(db)
    dsn = db.login("farebox_worker")
    ran = farebox("maintain", "--json", dsn=dsn)
    assert ran.code == 0, ran.err
    counts = done(ran.rows)
    assert counts.pop("analyze") >= 0
    assert counts == {"expire": 1, "records": 3, "apply": 4, "purge": 2}
    assert found(db.dsn, "records") == found(db.dsn, "verify") == found(db.dsn, "unapplied payments") == []
    counts = done(farebox("maintain", "--json", dsn=dsn).rows)
    counts.pop("analyze")
    assert set(counts.values()) == {0}


def test_twice_at_once_each_thing_is_done_once(db: Database) -> None:
    neglect(db)
    with ThreadPoolExecutor() as pool:
        started = [pool.submit(run, "maintain", "--json", dsn=db.dsn) for _ in range(2)]
        both = [future.result() for future in started]
    assert [ran.code for ran in both] == [0, 0], [ran.err for ran in both]
    one, two = (done(ran.rows) for ran in both)
    assert {name: one[name] + two[name] for name in ("expire", "records", "apply", "purge")} == {
        "expire": 1,
        "records": 3,
        "apply": 4,
        "purge": 2,
    }
    assert found(db.dsn, "verify") == []


def test_one_task_only_and_retention_of_ones_own(db: Database) -> None:
    neglect(db)
    assert done(farebox("maintain", "--only", "expire", "--json", dsn=db.dsn).rows) == {"expire": 1}
    keep = ("--keep-resolved", 400, "--keep-conflicts", 100)
    assert done(farebox("maintain", "--only", "purge", *keep, "--json", dsn=db.dsn).rows) == {"purge": 0}
    assert "removed what was settled long ago: 2" in farebox("maintain", "--only", "purge", dsn=db.dsn).out
    assert farebox("maintain", "--keep-resolved", 10**9, dsn=db.dsn).code == 2


def test_open_payments_are_never_purged(db: Database) -> None:
    company = db.company()
    payment = db.payment(company, db.route(company, status="inactive"))
    db.execute("select count(*) from farebox.create_tickets(%s::json)", [json.dumps([payment])])
    db.execute(
        "update farebox.unapplied_payments set first_seen_at = '2001-01-01', last_seen_at = '2001-01-01'"
    )
    db.advance_clock(timedelta(days=1))
    farebox("maintain", "--keep-resolved", 0, dsn=db.dsn)
    assert db.value("select count(*) from farebox.unapplied_payments") == 1


def test_the_statements_for_pg_cron_are_right(db: Database) -> None:
    """pg_cron is in no package here: each statement is run as pg_cron would, and the names are looked at."""
    neglect(db)
    conn = db.connect(dsn=db.login("farebox_worker"), autocommit=True)
    for task in upkeep.TASKS:
        conn.execute(task.statement.encode())
    assert (
        found(db.dsn, "verify") == found(db.dsn, "unapplied payments") == found(db.dsn, "payment codes") == []
    )
    printed = farebox("maintain", "--pg-cron", dsn=db.dsn).out
    assert printed == upkeep.cron_sql() + "\n"
    assert printed.count("select cron.schedule('farebox-") == len(upkeep.TASKS)
    # What is to be kept longer is kept by these jobs too.
    kept = farebox("maintain", "--pg-cron", "--only", "purge", "--keep-resolved", 3650).out
    assert kept.splitlines()[1:] == [
        line.replace("365 days", "3650 days") for line in printed.splitlines() if "purge" in line
    ]


def test_statistics_are_brought_up_to_date(db: Database) -> None:
    company = db.company()
    route = db.route(company)
    batch = [db.payment(company, route) for _ in range(200)]
    db.execute("select count(*) from farebox.create_tickets(%s::json)", [json.dumps(batch)])
    db.execute("select pg_stat_force_next_flush()")
    db.execute("select 1")
    assert "farebox.tickets" in str(found(db.dsn, "statistics", changed_rows_least=100))
    farebox("maintain", "--only", "analyze", dsn=db.login("farebox_worker"))
    assert found(db.dsn, "statistics", changed_rows_least=100) == []


def test_a_login_that_may_not_is_told_so(db: Database) -> None:
    ran = farebox("maintain", dsn=db.login("farebox_app"))
    assert ran.code == 4
    assert "error" in ran.err
