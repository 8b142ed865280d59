"""`farebox unapplied|records|verify`."""

import json
from uuid import UUID

from tests.cli.commands import farebox
from tests.support.database import Database


def refuse(db: Database, count: int, **fields: object) -> tuple[UUID, UUID]:
    """Payments on a closed route: refused, and kept."""
    company = db.company()
    route = db.route(company, status="inactive")
    payments = [db.payment(company, route, **fields) for _ in range(count)]
    assert farebox("create", dsn=db.dsn, stdin=json.dumps(payments)).code == 1
    return company, route


def test_unapplied_payments_are_listed_without_their_requests(db: Database) -> None:
    refuse(db, 3, passenger_phone="+23276987654")
    ran = farebox("unapplied", "list", "--json", dsn=db.dsn)
    assert ran.code == 0
    assert {row["reason"] for row in ran.rows} == {"route_inactive"}
    assert len(ran.rows) == 3
    assert "987654" not in ran.out + farebox("unapplied", "list", dsn=db.dsn).out
    [request, *_] = [
        row["request"] for row in farebox("unapplied", "list", "--with-request", "--json", dsn=db.dsn).rows
    ]
    assert request["passenger_phone"] == "+23276987654"


def test_lists_are_filtered_and_paged(db: Database) -> None:
    refuse(db, 1200)
    reason = ("--reason", "route_inactive")
    assert len(farebox("unapplied", "list", *reason, "--json", dsn=db.dsn).rows) == 100
    everything = farebox("unapplied", "list", *reason, "--all", "--json", dsn=db.dsn).rows
    assert len({row["monime_transaction_id"] for row in everything}) == len(everything) == 1200
    assert farebox("unapplied", "list", "--reason", "phone_invalid", "--json", dsn=db.dsn).rows == []


def test_unapplied_payments_become_tickets_when_the_reason_is_gone(db: Database) -> None:
    company, route = refuse(db, 3)
    still = farebox("unapplied", "apply", dsn=db.dsn)
    assert still.code == 1
    assert "0 of 3" in still.out
    farebox("route", "add", "--id", route, "--company-id", company, "--status", "active", dsn=db.dsn)
    applied = farebox("unapplied", "apply", "--reason", "route_inactive", "--limit", 2, "--json", dsn=db.dsn)
    assert applied.code == 0
    assert [row["outcome"] for row in applied.rows] == ["created", "created"]
    assert len(farebox("unapplied", "list", "--json", dsn=db.dsn).rows) == 1
    assert len(farebox("unapplied", "list", "--resolved", "--json", dsn=db.dsn).rows) == 3


def test_verify_is_silent_for_programs_and_says_so_to_people(db: Database) -> None:
    assert farebox("verify", dsn=db.dsn).out == "all invariants hold\n"
    assert farebox("verify", "--json", dsn=db.dsn).rows == []


def test_verify_ends_with_one_for_a_broken_invariant_and_repair_mends_it(db: Database) -> None:
    company = db.company()
    payment = db.payment(company, db.route(company))
    farebox("create", dsn=db.dsn, stdin=json.dumps(payment))
    db.execute("delete from farebox.transactions")
    found = farebox("verify", "--json", dsn=db.dsn)
    assert found.code == 1
    assert found.rows
    assert farebox("verify", dsn=db.dsn).code == 1
    assert farebox("records", "repair", "--json", dsn=db.dsn).document == {"recorded": 1}
    assert farebox("verify", dsn=db.dsn).code == 0
