"""Rule 2: callers with the same payment. One creates, all others get its ticket, even if the first fails."""

import json
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.core.support import (
    Call,
    Connection,
    Outcome,
    apply_unapplied,
    calling,
    create,
    create_one,
    said,
    together,
    violations,
)
from tests.support.database import Database

# A caller in a process of its own, which leaves its transaction open until it is told how to end it.
_PROGRAM = """
import sys, psycopg
conn = psycopg.connect(sys.argv[1])
[row] = conn.execute("select outcome, ticket_id from farebox.create_ticket(%s::json)", [sys.argv[2]])
print(conn.info.backend_pid, *row, flush=True)
getattr(conn, sys.stdin.readline().strip())()
"""


@pytest.fixture
def payment(db: Database) -> dict[str, Any]:
    company = db.company()
    return db.payment(company, db.route(company), payment_code=db.code(company, 50))


def _similar(db: Database, payment: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Another payment of the same company and route."""
    return db.payment(payment["company_id"], payment["route_id"], **fields)


def _assert_one_created(outcomes: list[Outcome]) -> None:
    assert sorted(said(outcomes)) == ["created", *["duplicate"] * (len(outcomes) - 1)]
    assert len({outcome.ticket_id for outcome in outcomes}) == 1
    assert all(outcome.recorded for outcome in outcomes)


def _counts(db: Database) -> list[int]:
    """Tickets, records, uses of codes, open rejected payments; all is well otherwise."""
    assert not violations(db)
    [row] = db.execute(
        "select (select count(*) from farebox.tickets), (select count(*) from farebox.transactions),"
        " (select coalesce(sum(used_tickets), 0) from farebox.payment_codes),"
        " (select count(*) from farebox.unapplied_payments where resolved_at is null)"
    )
    return [int(count) for count in row]


def test_of_many_callers_at_once_one_creates(db: Database) -> None:
    """Seen to fail with idx_tickets_transaction_lookup not unique (and the insert without ON CONFLICT)."""
    company = db.company()
    route = db.route(company)
    code = db.code(company, 1000)
    payments = [db.payment(company, route, payment_code=code if n % 2 else None) for n in range(40)]

    def run(conn: Connection, single: bool) -> list[Outcome]:
        if single:
            return [create_one(conn, payment) for payment in payments]
        return [outcome for payment in payments for outcome in create(conn, payment)]

    callers = [db.connect(autocommit=True) for _ in range(8)]
    rows = together(*(lambda c=c, n=n: run(c, n < 4) for n, c in enumerate(callers)))
    for outcomes in zip(*rows, strict=True):
        _assert_one_created(list(outcomes))
    assert _counts(db) == [40, 40, 20, 0]


@contextmanager
def _first_caller(db: Database, payment: dict[str, Any]) -> Generator[tuple[subprocess.Popen[str], int, str]]:
    """A process that has created the ticket but not committed; its backend and the id of the ticket."""
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, db.dsn, json.dumps(payment)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        pid, outcome, ticket_id = process.stdout.readline().split()
        assert outcome == "created"
        yield process, int(pid), ticket_id
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("ending", ["commit", "rollback", "terminate", "kill"])
@pytest.mark.parametrize("coded", [False, True])
def test_the_others_wait_for_how_the_first_ends(
    db: Database, payment: dict[str, Any], ending: str, coded: bool
) -> None:
    """Rolled back, its backend terminated, or its process killed by SIGKILL: one of those who waited creates.

    Seen to fail with the index not unique: the others do not wait, or create as well; and the long batch
    without the handler of unique_violation in _insert_tickets.
    """
    if not coded:
        del payment["payment_code"]
    with _first_caller(db, payment) as (process, pid, ticket_id):
        others = [db.connect(autocommit=True) for _ in range(5)]
        calls = [calling(db, conn, payment) for conn in others[:3]]
        # Inside batches as well, between payments of their own: a few, and as many as are written without
        # ON CONFLICT.
        calls += [
            calling(db, conn, *(_similar(db, payment) for _ in range(n)), payment, _similar(db, payment))
            for conn, n in zip(others[3:], (1, 13), strict=True)
        ]
        match ending:
            case "terminate":
                db.execute("select pg_terminate_backend(%s)", [pid])
            case "kill":
                process.kill()
            case _:
                assert process.stdin is not None
                process.stdin.write(f"{ending}\n")
                process.stdin.flush()
        rows = [row for call in calls for row in call.result()]

    same = [row for row in rows if row.transaction_id == payment["monime_transaction_id"]]
    if ending == "commit":
        assert said(same) == ["duplicate"] * 5
        assert {str(row.ticket_id) for row in same} == {ticket_id}
    else:
        _assert_one_created(same)
        assert str(same[0].ticket_id) != ticket_id
    assert said([row for row in rows if row not in same]) == ["created"] * 16
    assert _counts(db) == [17, 17, 1 if coded else 0, 0]


def test_each_of_those_who_wait_may_fail_in_turn(db: Database, payment: dict[str, Any]) -> None:
    """Without a code, for which they would wait. Seen to fail with the index not unique."""
    del payment["payment_code"]
    first, *others = (db.connect() for _ in range(5))
    tickets = [create_one(first, payment).ticket_id]
    holder = first
    calls = {conn: calling(db, conn, payment) for conn in others}
    while calls:
        holder.rollback()
        # The server knows who came through, a moment before that caller's own thread has read the answer.
        through = (
            "select pid from pg_stat_activity where pid = any(%s) and state = 'idle in transaction'",
            [[conn.info.backend_pid for conn in calls]],
        )
        db.wait_until(f"select exists ({through[0]})", through[1])
        [(pid,)] = db.execute(*through)
        [holder] = [conn for conn in calls if conn.info.backend_pid == pid]
        [outcome] = calls.pop(holder).result()
        assert outcome.outcome == "created"
        tickets.append(outcome.ticket_id)
    holder.commit()
    assert len(set(tickets)) == 5
    assert _counts(db) == [1, 1, 0, 0]


@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_who_asks_otherwise_for_a_payment_on_its_way_gets_the_truth(
    db: Database, payment: dict[str, Any], ending: str
) -> None:
    """Other fields, another company, twice in one batch. Seen to fail with the index not unique."""
    other_company = db.company()
    first = db.connect()
    created = create_one(first, payment)
    callers = [db.connect(autocommit=True) for _ in range(4)]
    requests: list[list[dict[str, Any]]] = [
        [payment | {"amount": 1, "monime_otp": "ABCD"}],
        [payment | {"payment_code": None}],
        [
            payment
            | {"company_id": str(other_company), "route_id": str(db.route(other_company)), "payment_code": ""}
        ],
        [payment | {"amount": "x"}, payment | {"payment_code": ""}, payment, payment | {"amount": 7}],
    ]
    calls = [calling(db, conn, *batch) for conn, batch in zip(callers, requests, strict=True)]
    getattr(first, ending)()
    rows = [call.result() for call in calls]
    if ending == "commit":
        assert [said(row) for row in rows] == [
            ["conflict"],
            ["conflict"],
            ["transaction_id_unavailable"],
            ["conflict", "conflict", "duplicate", "conflict"],
        ]
        assert rows[0][0].differing == ["monime_otp", "amount"]
        assert [row.differing for row in rows[3]] == [["amount"], ["payment_code"], None, ["amount"]]
        ids = {row.existing_ticket_id or row.ticket_id for row in (*rows[0], *rows[1], *rows[3])}
        assert ids == {created.ticket_id}
    else:
        assert said([row for outcomes in rows for row in outcomes]).count("created") == 1
    assert _counts(db)[:2] == [1, 1]
    assert _counts(db)[3] == 0


@pytest.mark.parametrize("coded", [False, True])
def test_a_rejection_kept_while_the_payment_waits_is_resolved_by_its_success(
    db: Database, payment: dict[str, Any], coded: bool
) -> None:
    """The payment waits for its code or for another caller's ticket; meanwhile a masked redelivery is kept.

    Once a bug: unapplied_payments was looked up before the locks were taken, and the row stayed open.
    """
    holder, caller, webhook = db.connect(), db.connect(autocommit=True), db.connect(autocommit=True)
    if coded:
        holder.execute("select from farebox.payment_codes for update")
    else:
        payment["payment_code"] = None
        create(holder, payment)
    bad = _similar(db, payment, amount=0)
    call = calling(db, caller, payment, bad)
    masked = payment | {"passenger_phone": "+23276***456"}
    assert said(create(webhook, masked, bad)) == ["phone_invalid", "amount_invalid"]
    assert _counts(db)[3] == 2
    holder.rollback()
    [outcome, refused] = call.result()
    assert [outcome.said, refused.said] == ["created", "amount_invalid"]
    # The call that ended last began first: its time is no step back.
    kept = db.execute(
        "select reason, attempts, ticket_id, last_seen_at >= first_seen_at, resolved_at >= last_seen_at"
        " from farebox.unapplied_payments order by attempts"
    )
    assert kept == [
        ("phone_invalid", 1, outcome.ticket_id, True, True),
        ("amount_invalid", 2, None, True, None),
    ]
    assert _counts(db)[3] == 1


def test_two_who_apply_kept_payments_at_once_create_each_once(db: Database) -> None:
    """And redeliveries come at the same time. Seen to fail with the index not unique."""
    company = db.company(status="suspended")
    route = db.route(company)
    code = db.code(company, 7)
    payments = [db.payment(company, route, payment_code=code if n % 5 == 0 else None) for n in range(60)]
    with db.connect(autocommit=True) as conn:
        assert set(said(create(conn, *payments))) == {"company_suspended"}
    db.execute("update farebox.companies set status = 'active'")

    callers = [db.connect(autocommit=True) for _ in range(6)]
    rows = together(
        *(lambda c=c: apply_unapplied(c) for c in callers[:2]),
        *(lambda c=c: apply_unapplied(c, 13, "company_suspended") for c in callers[2:4]),
        lambda: create(callers[4], *payments[::-1]),
        lambda: [create_one(callers[5], payment) for payment in payments[20:40]],
    )
    tickets: dict[str, set[Any]] = {}
    created: list[str] = []
    for row in (row for outcomes in rows for row in outcomes):
        assert row.transaction_id is not None
        if row.outcome == "rejected":
            assert row.reason == "code_exhausted"
            continue
        tickets.setdefault(row.transaction_id, set()).add(row.ticket_id)
        if row.outcome == "created":
            created.append(row.transaction_id)
    # The twelve with a code share seven uses.
    assert len(created) == len(set(created)) == 48 + 7
    assert all(len(ids) == 1 for ids in tickets.values())
    with db.connect(autocommit=True) as conn:
        apply_unapplied(conn)
    assert _counts(db) == [55, 55, 7, 5]


@pytest.mark.parametrize("first", ["apply", "redelivery"])
def test_a_payment_being_applied_is_created_once_by_its_redelivery(
    db: Database, payment: dict[str, Any], first: str
) -> None:
    """Whoever comes second waits for the ticket of the first. Seen to fail with the index not unique."""
    one, two = db.connect(), db.connect()
    db.execute("update farebox.companies set status = 'suspended'")
    assert create_one(one, payment).said == "company_suspended"
    one.commit()
    db.execute("update farebox.companies set status = 'active'")

    created = apply_unapplied(one) if first == "apply" else create(one, payment)
    second = Call(lambda: create(two, payment) if first == "apply" else apply_unapplied(two))
    db.wait_until_blocked(two)
    one.commit()
    outcomes = second.result()
    two.commit()
    assert said(created + outcomes) == ["created", "duplicate"]
    assert _counts(db) == [1, 1, 1, 0]


@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_a_rejection_that_waits_for_the_success_does_not_reopen_the_payment(
    db: Database, payment: dict[str, Any], ending: str
) -> None:
    """Seen to fail when the row is written without regard to its being resolved."""
    one, two = db.connect(), db.connect(autocommit=True)
    masked = payment | {"passenger_phone": "masked"}
    create(two, masked)
    [created] = create(one, payment)
    call = calling(db, two, masked)
    getattr(one, ending)()
    assert said(call.result()) == ["phone_invalid"]
    kept = db.execute("select attempts, ticket_id from farebox.unapplied_payments")
    assert kept == [(2, created.ticket_id if ending == "commit" else None)]
    assert _counts(db) == ([1, 1, 1, 0] if ending == "commit" else [0, 0, 0, 1])
