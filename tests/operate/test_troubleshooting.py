"""Every symptom of the troubleshooting guide: brought about, named by the product, mended by what it says."""

import json
import re
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from farebox.monitoring.samples import collect
from tests.cli.commands import farebox, run
from tests.operate.support import found, treat
from tests.operate.test_metrics import sell, value
from tests.support.database import Database, Row

GUIDE = Path(__file__).parents[2] / "driver/OPERATIONS.md"
NOW = timedelta(0)

Session = psycopg.Connection[Row]
Case = Callable[[Database], None]
CASES: dict[str, Case] = {}


def symptom(heading: str) -> Callable[[Case], Case]:
    """Enter a case under the heading of the guide that it belongs to."""

    def enter(case: Case) -> Case:
        CASES[heading] = case
        return case

    return enter


def enqueue(db: Database, payments: Sequence[object]) -> None:
    db.execute("select count(*) from farebox.enqueue_tickets(%s::json)", [json.dumps(payments)])


@symptom("The queue is long")
def _queue(db: Database) -> None:
    company = db.company()
    route = db.route(company)
    enqueue(db, [db.payment(company, route) for _ in range(1001)])
    [finding] = found(db.dsn, "queue")
    assert finding.message == "1,001 requests are queued, 0 workers are connected"
    assert str(finding.fix).startswith("farebox worker ")
    assert value(collect(db.dsn, ["queue"]), "farebox_queue_size") == 1001
    assert farebox("worker", "--drain", dsn=db.dsn).code == 0
    assert found(db.dsn, "queue") == []


def _blocked_batch(db: Database) -> tuple[Session, Session]:
    holder, seller = db.connect(), db.connect(autocommit=True)
    holder.execute("lock table farebox.tickets")
    seller.pgconn.send_query(b"select * from farebox.create_tickets('[]')")
    db.wait_until_blocked(seller)
    return holder, seller


@symptom("Creating tickets is slow")
def _slow(db: Database) -> None:
    _, seller = _blocked_batch(db)
    [finding] = found(db.dsn, "slow batches", batch_warning=NOW)
    assert f"pid {seller.info.backend_pid} has been at a batch for" in finding.message
    assert "Lock/relation" in finding.message
    assert value(collect(db.dsn, ["batches"]), "farebox_batch_running_seconds") > 0
    assert f"select pg_cancel_backend({seller.info.backend_pid});" in str(finding.fix)
    db.execute("select pg_cancel_backend(%s)", [seller.info.backend_pid])
    seller.pgconn.get_result()
    assert found(db.dsn, "slow batches", batch_warning=NOW) == []


@symptom("Sessions wait for locks")
def _locks(db: Database) -> None:
    holder, seller = _blocked_batch(db)
    [finding] = [
        each for each in found(db.dsn, "locks") if f"pid {seller.info.backend_pid} of" in each.message
    ]
    assert f"held by pid {holder.info.backend_pid} of postgres" in finding.message
    assert value(collect(db.dsn, ["server"]), "farebox_blocked_sessions") >= 1
    treat(db, finding)
    seller.pgconn.get_result()
    assert not [each for each in found(db.dsn, "locks") if str(seller.info.backend_pid) in each.message]


@symptom("Deadlocks")
def _deadlocks(db: Database) -> None:
    """Two who write to the tables past the functions."""
    before = value(collect(db.dsn, ["server"]), "farebox_deadlocks_total")
    companies = [db.company(), db.company()]
    sessions = [db.connect(), db.connect()]
    rename = "update farebox.companies set name = 'x' where id = %s"
    for conn, company in zip(sessions, companies, strict=True):
        conn.execute(rename, [company])
    failures: list[str] = []

    def cross(conn: Session, company: object) -> None:
        try:
            conn.execute(rename, [company])
        except psycopg.errors.DeadlockDetected as error:
            failures.append(str(error.sqlstate))
        conn.close()

    threads = [
        threading.Thread(target=cross, args=words)
        for words in zip(sessions, reversed(companies), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == ["40P01"]
    db.wait_until("select deadlocks > %s from pg_stat_database where datname = current_database()", [before])
    assert value(collect(db.dsn, ["server"]), "farebox_deadlocks_total") == before + 1


@symptom("The same payments come again and again")
def _duplicates(db: Database) -> None:
    company = db.company()
    route = db.route(company)
    payments = [db.payment(company, route) for _ in range(10)]
    sell(db, payments)
    sell(db, payments)
    families = collect(db.dsn, ["tickets"])
    assert value(families, "farebox_ticket_outcomes_total", outcome="duplicate") == 10
    assert value(families, "farebox_ticket_outcomes_total", outcome="conflict") == 0
    assert value(families, "farebox_rows_written_total", table="tickets", operation="insert") == 10


@symptom("Conflicts")
def _conflicts(db: Database) -> None:
    company = db.company()
    payment = db.payment(company, db.route(company))
    sell(db, [payment])
    ran = farebox("-v", "create", dsn=db.dsn, stdin=json.dumps(payment | {"amount": 4999}))
    assert ran.code == 1
    families = collect(db.dsn, ["tickets"])
    assert value(families, "farebox_ticket_outcomes_total", outcome="conflict") == 1
    assert value(families, "farebox_ticket_outcomes_total", outcome="duplicate") == 0
    told = re.sub(r"\s+", " ", ran.out)
    assert f"{payment['monime_transaction_id']} conflict" in told
    assert "amount" in told


@symptom("Requests died in the queue")
def _dead(db: Database) -> None:
    company = db.company()
    payment = db.payment(company, db.route(company))
    enqueue(db, [payment, payment | {"amount": 4999}])
    assert farebox("worker", "--drain", dsn=db.dsn).code == 0
    [finding] = found(db.dsn, "queue")
    assert finding.message == "1 dead requests are in the queue"
    [dead] = farebox("queue", "dead", "--json", dsn=db.dsn).rows
    assert dead["reason"] == "conflict"
    assert farebox("queue", "drop", "--yes", dead["key"], dsn=db.dsn).code == 0
    assert found(db.dsn, "queue") == []


@symptom("The queue tries requests again and again")
def _again(db: Database) -> None:
    company = db.company()
    route = db.route(company)
    db.execute("alter table farebox.tickets add constraint odd check (monime_otp <> 'ODD1')")
    enqueue(db, [db.payment(company, route, monime_otp=otp) for otp in ("ODD1", "482913")])
    assert farebox("worker", "--drain", dsn=db.dsn).code == 0
    families = collect(db.dsn, ["retries"])
    assert value(families, "farebox_queue_retries_total") >= 1
    assert value(families, "farebox_queue_backoff", reason="error_23514") == 1
    [waiting] = farebox("queue", "list", "--state", "delayed", "--json", dsn=db.dsn).rows
    assert waiting["reason"] == "error_23514"
    listed = farebox("queue", "list", "--with-request", "--json", dsn=db.dsn).rows
    tried = farebox("create", dsn=db.dsn, stdin=json.dumps(listed[0]["request"]))
    assert "They break the constraint odd of tickets." in tried.err
    assert "ODD1" not in tried.err
    db.execute("alter table farebox.tickets drop constraint odd")
    key = f"queue:{waiting['queue_id']}"
    assert farebox("queue", "retry", key, dsn=db.dsn).code == 0
    assert farebox("worker", "--drain", dsn=db.dsn).code == 0
    assert value(collect(db.dsn, ["tickets"]), "farebox_ticket_outcomes_total", outcome="created") == 2


@symptom("Passengers paid and have no ticket")
def _unapplied(db: Database) -> None:
    company = db.company()
    route = db.route(company, status="inactive")
    sell(db, [db.payment(company, route) for _ in range(3)])
    [finding] = found(db.dsn, "unapplied payments")
    assert "3 route_inactive" in finding.message
    assert "route_inactive" in farebox("unapplied", "list", dsn=db.dsn).out
    open_again = ("--id", route, "--company-id", company, "--status", "active")
    assert farebox("route", "add", *open_again, dsn=db.dsn).code == 0
    assert farebox("unapplied", "apply", dsn=db.dsn).code == 0
    assert found(db.dsn, "unapplied payments") == []


@symptom("Payment codes run out")
def _codes(db: Database) -> None:
    company = db.company()
    route, code = db.route(company), db.code(company, 10)
    sell(db, [db.payment(company, route, payment_code=code) for _ in range(9)])
    [finding] = found(db.dsn, "payment codes")
    assert finding.message == "1 active payment codes are 90 % spent or more"
    more = ("--company-id", company, "--code", code, "--total-tickets", 100)
    assert farebox("code", "add", *more, dsn=db.dsn).code == 0
    assert found(db.dsn, "payment codes") == []


@symptom("Transaction records are missing")
def _records(db: Database) -> None:
    company = db.company()
    sell(db, [db.payment(company, db.route(company)) for _ in range(3)])
    db.execute("delete from farebox.transactions")
    [finding] = found(db.dsn, "records")
    assert (finding.message, finding.fix) == (
        "3 tickets have no transaction record",
        "farebox records repair",
    )
    assert farebox("records", "repair", dsn=db.dsn).code == 0
    assert found(db.dsn, "records") == []


@symptom("Too many connections")
def _connections(db: Database) -> None:
    """Really used up in the doctor's own tests; a server that others share is not the place for it."""
    [finding] = found(db.dsn, "connections", connections_warning=0.0)
    assert " of 197 connections are in use" in finding.message
    assert value(collect(db.dsn, ["server"]), "farebox_connections_limit") == 197


@symptom("Old transactions, dead rows, bloat")
def _old(db: Database) -> None:
    sleeper = db.connect()
    sleeper.execute("select 1")
    pid = sleeper.info.backend_pid
    [finding] = [
        each
        for each in found(db.dsn, "transactions", transaction_warning=NOW)
        if f"pid {pid})" in each.message
    ]
    treat(db, finding)
    db.wait_until("select not exists (select from pg_stat_activity where pid = %s)", [pid])
    company = db.company()
    sell(db, [db.payment(company, db.route(company)) for _ in range(100)])
    db.execute("update farebox.tickets set status = 'used'")
    db.execute("select pg_stat_force_next_flush()")
    db.execute("select 1")
    [finding] = found(db.dsn, "dead rows", dead_rows_least=50)
    treat(db, finding)
    assert found(db.dsn, "dead rows", dead_rows_least=50) == []


@symptom("The database does not answer, or not as expected")
def _no_answer(db: Database) -> None:
    down = farebox("verify", dsn="postgresql://nobody@127.0.0.1:1/x?connect_timeout=2")
    assert (down.code, "hint:" in down.err) == (3, True)
    denied = farebox("company", "list", dsn=db.login("farebox_worker"))
    assert (denied.code, "permission denied" in denied.err) == (4, True)
    db.code(db.company(), 5)
    db.execute("update farebox.payment_codes set used_tickets = 2")
    broken = farebox("verify", dsn=db.dsn)
    assert (broken.code, "code_counter_is_exact" in broken.out) == (1, True)
    db.execute(
        "create or replace function farebox._phone(p_text text) returns text language sql immutable"
        " as 'select p_text'"
    )
    [finding] = found(db.dsn, "functions")
    assert finding.message.startswith("the function farebox._phone differs from this version's")
    db.execute("drop schema farebox cascade")
    missing = run("verify", dsn=db.dsn)
    assert (missing.code, "farebox migrate" in missing.err) == (3, True)


@pytest.mark.parametrize("server", ["pg18"], indirect=True)
@pytest.mark.parametrize("heading", CASES)
def test_the_product_names_it_and_what_it_says_mends_it(db: Database, heading: str) -> None:
    CASES[heading](db)


def test_every_symptom_of_the_guide_is_brought_about() -> None:
    [guide] = re.findall(r"^## Troubleshooting\n(.*?)^## ", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    sections = re.findall(r"^### ([^\n]*)\n(.*?)(?=^### |\Z)", guide, re.MULTILINE | re.DOTALL)
    assert [heading for heading, _ in sections] == list(CASES)
    # Each shows what is printed then, or the very words to look up.
    assert [heading for heading, text in sections if "```console" not in text and "|---|" not in text] == []
