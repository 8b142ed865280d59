"""Routes and codes that are deleted or closed while payments come in."""

import json
from typing import Any

import pytest
from psycopg.errors import ForeignKeyViolation

from tests.core.support import Call, Connection, calling, create, said, violations
from tests.support.database import Database


@pytest.fixture
def payment(db: Database) -> dict[str, Any]:
    company = db.company()
    return db.payment(company, db.route(company), payment_code=db.code(company, 1))


def _delete(conn: Connection, payment: dict[str, Any], what: str) -> int:
    if what == "route":
        cursor = conn.execute("delete from farebox.routes where id = %s", [payment["route_id"]])
    else:
        cursor = conn.execute("delete from farebox.payment_codes where code = %s", [payment["payment_code"]])
    return cursor.rowcount


@pytest.mark.parametrize("what", ["route", "code"])
@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_a_payment_waits_for_a_deletion(
    db: Database, payment: dict[str, Any], what: str, ending: str
) -> None:
    """Seen to fail without the lock on the table of tickets, on either side."""
    remover, caller = db.connect(), db.connect(autocommit=True)
    assert _delete(remover, payment, what) == 1
    call = calling(db, caller, payment)
    getattr(remover, ending)()
    assert said(call.result()) == [f"{what}_not_found" if ending == "commit" else "created"]
    assert not violations(db)


@pytest.mark.parametrize("what", ["route", "code"])
@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_a_deletion_waits_for_payments(db: Database, payment: dict[str, Any], what: str, ending: str) -> None:
    """Seen to fail, for a route, when the deletion does not lock the table of tickets."""
    if what == "route":
        payment["payment_code"] = None
    remover, caller = db.connect(), db.connect()
    create(caller, payment)
    call = Call(lambda: _delete(remover, payment, what))
    db.wait_until_blocked(remover)
    getattr(caller, ending)()
    if ending == "commit":
        with pytest.raises(ForeignKeyViolation):
            call.result()
    else:
        assert call.result() == 1
        remover.commit()
        assert said(create(caller, payment)) == [f"{what}_not_found"]
    assert not violations(db)


@pytest.mark.parametrize("what", ["route", "code"])
def test_what_was_sold_stays(db: Database, payment: dict[str, Any], what: str) -> None:
    with db.connect(autocommit=True) as conn:
        create(conn, payment)
        with pytest.raises(ForeignKeyViolation):
            _delete(conn, payment, what)


def test_a_payment_does_not_wait_for_other_changes_of_companies_and_routes(
    db: Database, payment: dict[str, Any]
) -> None:
    """It reads them as they stand; no lock on the few rows that all payments name."""
    administrator, caller = db.connect(), db.connect(autocommit=True)
    administrator.execute("update farebox.companies set status = 'suspended'")
    administrator.execute("update farebox.routes set status = 'inactive'")
    assert said(create(caller, payment)) == ["created"]
    administrator.commit()
    another = payment | {"monime_transaction_id": "another"}
    assert said(create(caller, another)) == ["company_suspended"]


@pytest.mark.parametrize("ending", ["commit", "rollback"])
@pytest.mark.parametrize(
    ("function", "deleted"),
    [("issue_payment_codes", "route"), ("issue_payment_codes", "company"), ("upsert_routes", "company")],
)
def test_what_is_added_waits_for_a_deletion(db: Database, function: str, deleted: str, ending: str) -> None:
    """Once a bug: 23503 for the whole batch, from the foreign key."""
    company = db.company()
    route = db.route(company) if deleted == "route" else None
    element: dict[str, Any] = {"company_id": str(company), "name": "N", "origin": "O", "destination": "D"}
    element |= {"fare": 1, "code": "*1#", "total_tickets": 1, "route_id": route and str(route)}
    remover, administrator = db.connect(), db.connect(autocommit=True)
    remover.execute(
        f"delete from farebox.{'routes' if route else 'companies'} where id = %s".encode(), [route or company]
    )
    query = f"select outcome, reason from farebox.{function}(%s::json)".encode()
    call = Call(lambda: administrator.execute(query, [json.dumps([element, {}])]).fetchall())
    db.wait_until_blocked(administrator)
    getattr(remover, ending)()
    [first, second] = call.result()
    assert first == (("rejected", f"{deleted}_not_found") if ending == "commit" else ("created", None))
    assert second == ("rejected", "company_id_invalid")
