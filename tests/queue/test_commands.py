"""`farebox enqueue` and `farebox queue …`."""

import json
from typing import Any

import pytest

from tests.cli.commands import farebox
from tests.queue.support import Shop, assert_all_done, enqueue, process_all
from tests.support.database import Database


def _store(db: Database, payments: list[dict[str, Any]]) -> list[int]:
    ran = farebox("enqueue", "--json", dsn=db.dsn, stdin=json.dumps(payments))
    assert ran.code == 0
    assert [row["ordinal"] for row in ran.rows] == list(range(1, len(payments) + 1))
    return [row["queue_id"] for row in ran.rows]


def _process(db: Database) -> None:
    with db.connect(autocommit=True) as conn:
        process_all(conn)


def test_stored_payments_become_tickets(db: Database) -> None:
    shop = Shop(db)
    payments = shop.payments(5)
    _store(db, payments)
    stats = farebox("queue", "stats", "--json", dsn=db.dsn).document
    assert (stats["size"], stats["ready"], stats["by_attempts"]) == (5, 5, {"0": 5})
    assert "5 waiting: 5 ready" in farebox("queue", "stats", dsn=db.dsn).out
    drained = farebox("worker", "--drain", "--json", dsn=db.dsn)
    assert drained.document["created"] == 5
    assert_all_done(db, payments)


def test_waiting_tells_what_became_of_each(db: Database) -> None:
    """Here the requests are settled before they are asked about."""
    shop = Shop(db)
    payments = shop.payments(2)
    with db.connect(autocommit=True) as conn:
        enqueue(conn, [*payments, payments[0] | {"amount": 1}])
        process_all(conn)
    waited = farebox("enqueue", "--wait", "--timeout", 0.01, dsn=db.dsn, stdin=json.dumps(payments))
    assert waited.code == 3  # nobody works
    assert "stored but not settled" in waited.err
    _process(db)
    assert farebox("queue", "stats", "--json", dsn=db.dsn).document["size"] == 0


def test_lists_show_and_find_without_phones(db: Database) -> None:
    shop, other = Shop(db), Shop(db)
    payments = shop.payments(1_150, passenger_phone="+23276987654")
    with db.connect(autocommit=True) as conn:
        enqueue(conn, payments + other.payments(1))
    ran = farebox("queue", "list", "--json", dsn=db.dsn)
    assert len(ran.rows) == 100
    assert "987654" not in ran.out
    assert len(farebox("queue", "list", "--all", "--json", dsn=db.dsn).rows) == 1_151
    assert len(farebox("queue", "list", "--company", other.company, "--json", dsn=db.dsn).rows) == 1
    wanted = payments[1_000]["monime_transaction_id"]
    [found] = farebox("queue", "list", "--payment", wanted, "--with-request", "--json", dsn=db.dsn).rows
    assert found["request"]["passenger_phone"] == "+23276987654"
    assert farebox("queue", "list", "--state", "paused", "--json", dsn=db.dsn).rows == []


def test_dead_requests_are_listed_retried_and_dropped(db: Database) -> None:
    shop = Shop(db)
    [payment] = shop.payments(1)
    _store(db, [payment, payment | {"amount": 1}, payment | {"amount": 2}, payment | {"amount": 3}])
    _process(db)
    dead = farebox("queue", "dead", "--json", dsn=db.dsn).rows
    assert [row["reason"] for row in dead] == ["conflict"] * 3
    assert {row["detail"] for row in dead} == {"amount"}
    keys = [row["key"] for row in dead]
    retried = farebox("queue", "retry", keys[0], "--json", dsn=db.dsn)
    assert retried.code == 0
    assert retried.document["key"] == keys[0]
    asked = farebox("queue", "drop", keys[1], dsn=db.dsn, stdin="n\n")
    assert asked.code == 130
    dropped = farebox("queue", "drop", keys[1], "--yes", "--json", dsn=db.dsn)
    assert dropped.document["request"]["amount"] in (1, 2, 3)
    number = keys[2].removeprefix("queue:")
    assert farebox("queue", "drop", number, keys[2], "--yes", dsn=db.dsn).code == 0  # one, named twice
    assert farebox("queue", "drop", number, "--yes", dsn=db.dsn).code == 1
    assert farebox("queue", "retry", keys[1], dsn=db.dsn).code == 1
    _process(db)
    assert len(farebox("queue", "dead", "--all", "--json", dsn=db.dsn).rows) == 1


def test_a_company_is_paused_and_resumed(db: Database) -> None:
    shop = Shop(db)
    payments = shop.payments(3)
    _store(db, payments)
    assert farebox("queue", "pause", shop.company, "--json", dsn=db.dsn).document == {"waiting": 3}
    assert farebox("worker", "--drain", "--json", dsn=db.dsn).document["taken"] == 0
    assert str(shop.company) in farebox("queue", "stats", dsn=db.dsn).out
    assert farebox("queue", "resume", shop.company, "--json", dsn=db.dsn).document == {"resumed": 3}
    assert farebox("worker", "--once", "--json", dsn=db.dsn).document["created"] == 3
    assert_all_done(db, payments)


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (("queue", "retry", "nonsense"), 2),
        (("queue", "pause", "no-uuid"), 2),
        (("worker", "--once", "--drain"), 2),
        (("worker", "--batch-size", "0"), 2),
    ],
)
def test_misuse_ends_with_two(db: Database, args: tuple[str, ...], code: int) -> None:
    assert farebox(*args, dsn=db.dsn).code == code


def test_each_role_may_do_its_part(db: Database) -> None:
    app, worker, admin = (db.login(f"farebox_{role}") for role in ("app", "worker", "admin"))
    shop = Shop(db)
    stdin = json.dumps(shop.payments(2))
    assert farebox("enqueue", dsn=app, stdin=stdin).code == 0
    assert farebox("worker", "--drain", dsn=app).code == 4
    assert farebox("queue", "stats", dsn=worker).code == 0
    assert farebox("queue", "list", dsn=worker).code == 4
    assert farebox("queue", "list", dsn=admin).code == 0
    assert farebox("enqueue", dsn=admin, stdin=stdin).code == 4
    assert farebox("worker", "--drain", "--json", dsn=worker).document["created"] == 2
