"""Rule 6: money is never forgotten. What is rejected is kept, and applied once its cause is gone."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString
from uuid import uuid4

import psycopg
import pytest

from tests.core.support import (
    Connection,
    Outcome,
    Shop,
    apply_unapplied,
    create,
    create_one,
    said,
    stop_the_clock,
    violations,
)
from tests.support.database import Database, Row

_MASKED = {"passenger_phone": "+23276***456"}


@pytest.fixture
def shop(db: Database) -> Shop:
    return Shop(db)


@pytest.fixture
def conn(db: Database) -> Connection:
    return db.connect(autocommit=True)


def test_every_rejected_payment_with_an_id_is_kept(db: Database, shop: Shop, conn: Connection) -> None:
    """As it came: white space, order and repetition of keys, unknown keys, escapes no text can hold."""
    other, closed = db.company(), db.route(shop.company, status="inactive")
    late = db.code(shop.company, 1, expires_at=datetime(2020, 1, 1, tzinfo=UTC))
    faults: list[tuple[str, dict[str, Any]]] = [
        ("company_id_invalid", {"company_id": 5}),
        ("route_id_invalid", {"route_id": ""}),
        ("phone_invalid", {"passenger_phone": "+232 76 *** 456"}),
        ("otp_invalid", {"monime_otp": None}),
        ("amount_invalid", {"amount": "5,000"}),
        ("commission_rate_invalid", {"commission_rate": 7}),
        ("company_not_found", {"company_id": str(uuid4())}),
        ("route_not_found", {"route_id": str(uuid4())}),
        ("route_inactive", {"route_id": str(closed)}),
        ("code_not_found", {"payment_code": "?"}),
        ("code_not_found", {"payment_code": db.code(other, 1)}),
        ("code_expired", {"payment_code": late}),
    ]
    elements = [json.dumps(shop.payments(1, **fields)[0]) for _, fields in faults]
    strange = json.dumps(shop.payments(1, amount=0)[0])
    tail = r', "x" : [1e400 , "\u0000\ud800", {"y":   null}] ,"amount":0.0 , "amount":-0 }'
    elements += ["{ \t" + strange[1:-1] + tail]
    with_space = shop.payments(1, amount=0)[0]
    elements += [
        json.dumps(with_space | {"monime_transaction_id": "\u00a0 " + with_space["monime_transaction_id"]})
    ]
    reasons = [reason for reason, _ in faults] + ["amount_invalid"] * 2
    assert said(create(conn, *elements)) == reasons
    kept: dict[str, Row] = {
        row[0]: row[1:]
        for row in db.execute(
            "select monime_transaction_id, request::text, reason, attempts, first_seen_at = last_seen_at,"
            " resolved_at, ticket_id from farebox.unapplied_payments"
        )
    }
    for element, reason in zip(elements, reasons, strict=True):
        key = json.loads(element)["monime_transaction_id"].strip()
        assert kept.pop(key) == (element, reason, 1, True, None, None)
    assert not kept


def test_what_is_no_rejected_payment_is_not_kept(db: Database, shop: Shop, conn: Connection) -> None:
    [payment, free] = shop.payments(2)
    other = db.company()
    create(
        conn,
        payment,
        payment,
        payment | {"amount": 1},
        payment | {"company_id": str(other)},
        free | {"monime_transaction_id": " "},
        free | {"monime_transaction_id": "x" * 65},
        free | {"monime_transaction_id": 5},
        "null",
        "[]",
    )
    assert not db.execute("select from farebox.unapplied_payments")


def test_attempts_are_counted_and_the_first_time_stays(db: Database, shop: Shop, conn: Connection) -> None:
    start = datetime(2026, 4, 1, 8, 0, tzinfo=UTC)
    payment = shop.payments(1)[0]
    steps: list[tuple[dict[str, Any], str]] = [
        ({"amount": 0}, "amount_invalid"),
        ({"passenger_phone": "*"}, "phone_invalid"),
        ({"passenger_phone": "*"}, "phone_invalid"),
        ({"payment_code": "none"}, "code_not_found"),
    ]
    for minutes, (fields, reason) in enumerate(steps):
        stop_the_clock(db, start + timedelta(minutes=minutes))
        assert create_one(conn, payment | fields).said == reason
        kept = "select first_seen_at, last_seen_at, attempts, reason, request from farebox.unapplied_payments"
        now = start + timedelta(minutes=minutes)
        assert db.execute(kept) == [(start, now, minutes + 1, reason, payment | fields)]
    later = start + timedelta(minutes=10)
    stop_the_clock(db, later)
    created = create_one(conn, payment)
    resolved = (
        "select last_seen_at, attempts, reason, resolved_at, ticket_id, company_id"
        " from farebox.unapplied_payments"
    )
    last_seen = start + timedelta(minutes=3)
    assert db.execute(resolved) == [(last_seen, 4, "code_not_found", later, created.ticket_id, shop.company)]
    assert not apply_unapplied(conn)


def test_a_masked_redelivery_does_not_erase_the_good_request(
    db: Database, shop: Shop, conn: Connection
) -> None:
    [first, second] = shop.payments(2, payment_code=db.code(shop.company, 1))
    create(conn, first, second, second | _MASKED, second | _MASKED)
    kept = "select request, earlier_requests from farebox.unapplied_payments"
    assert db.execute(kept) == [(second | _MASKED, [second])]
    # Nor do two that take turns, each of which differs from the one before. Once a bug.
    for _ in range(5):
        create(conn, second | {"passenger_phone": "*"})
        create(conn, second | _MASKED)
    assert db.execute(kept) == [(second | _MASKED, [second | {"passenger_phone": "*"}, second])]


def test_kept_payments_are_applied_once_their_cause_is_gone(
    db: Database, shop: Shop, conn: Connection
) -> None:
    """Tried longest ago first, so many and no more, only those with the reason that is asked for."""
    code = db.code(shop.company, 1)
    start = datetime(2026, 4, 1, 8, 0, tzinfo=UTC)
    payments = shop.payments(6, payment_code=code)
    masked = shop.payments(2, **_MASKED)
    for minutes, payment in enumerate([*payments, *masked]):
        stop_the_clock(db, start + timedelta(minutes=minutes))
        create(conn, payment)
    stop_the_clock(db, start + timedelta(hours=1))
    assert set(said(apply_unapplied(conn, 1000, "code_exhausted"))) == {"code_exhausted"}

    db.execute("update farebox.payment_codes set total_tickets = 4")
    stop_the_clock(db, start + timedelta(hours=2))

    def keys(rows: list[Outcome]) -> list[str | None]:
        return [row.transaction_id for row in rows]

    rows = apply_unapplied(conn, 2, "code_exhausted")
    assert keys(rows) == sorted(payment["monime_transaction_id"] for payment in payments[1:])[:2]
    assert said(rows) == ["created"] * 2
    rows = apply_unapplied(conn)
    assert keys(rows)[:2] == [payment["monime_transaction_id"] for payment in masked]
    assert said(rows) == ["phone_invalid", "phone_invalid", "created", "code_exhausted", "code_exhausted"]
    assert apply_unapplied(conn, 10, "no such reason") == []
    # What was tried goes to the end of the line.
    tried: set[str | None] = set()
    for hours in range(3, 7):
        stop_the_clock(db, start + timedelta(hours=hours))
        tried.update(keys(apply_unapplied(conn, 1)))
    assert len(tried) == 4
    assert db.value("select count(*) from farebox.unapplied_payments where resolved_at is null") == 4
    assert not violations(db)


def test_another_companys_success_resolves_the_payment_and_tells_neither_of_the_other(
    db: Database, shop: Shop, conn: Connection
) -> None:
    other = db.company()
    [payment] = shop.payments(1)
    create(conn, payment | {"amount": 0})
    created = create_one(conn, payment | {"company_id": str(other), "route_id": str(db.route(other))})
    kept = db.execute("select ticket_id, company_id from farebox.unapplied_payments")
    assert kept == [(created.ticket_id, None)]
    assert create_one(conn, payment | {"amount": 0}).said == "transaction_id_unavailable"
    assert db.value("select attempts from farebox.unapplied_payments") == 1


@pytest.mark.parametrize("limit", [None, 0, -1, 10_001, 2**31 - 1])
@pytest.mark.parametrize(
    "call",
    [
        "select farebox.record_missing_transactions(%s)",
        "select farebox.apply_unapplied_payments(%s)",
        "select farebox.expire_payment_codes(%s)",
        "select farebox.list_unapplied_payments(%s)",
        "select farebox.list_companies(%s)",
    ],
)
def test_a_limit_out_of_range_is_misuse(conn: Connection, call: LiteralString, limit: int | None) -> None:
    with pytest.raises(psycopg.Error) as error:
        conn.execute(call, [limit])
    assert error.value.sqlstate == "TK003"
