"""Every method of both clients, against the real functions."""

from __future__ import annotations

import inspect
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from farebox import (
    AsyncFarebox,
    AsyncQueuedTicket,
    CompanyRequest,
    Farebox,
    InvalidRequestError,
    NotMigratedError,
    PermissionDeniedError,
    QueuedTicket,
    TicketRequest,
    UsageError,
)
from tests.driver.conftest import Call, Shop
from tests.support.database import Database


def test_a_payment_becomes_a_ticket_and_stays_that_ticket(shop: Shop, connect: Call) -> None:
    client = connect(shop.dsn)
    payment = shop.payment()
    created = client("create_ticket", payment)
    assert (created.outcome, created.ordinal, created.ok) == ("created", 1, True)
    assert created.monime_transaction_id == payment["monime_transaction_id"]
    again = client("create_ticket", TicketRequest(**payment))
    assert (again.outcome, again.ticket_id) == ("duplicate", created.ticket_id)
    with_retry = client("create_ticket_with_retry", payment)
    assert (with_retry.outcome, with_retry.ticket_id) == ("duplicate", created.ticket_id)
    conflict = client("create_ticket", payment | {"amount": 4000})
    assert (conflict.outcome, conflict.ok) == ("conflict", False)
    assert conflict.existing_ticket_id == created.ticket_id
    assert conflict.differing == ("amount",)
    shop.assert_sound(1)


def test_lists_come_back_in_order_with_what_succeeded_and_what_failed(shop: Shop, connect: Call) -> None:
    client = connect(shop.dsn)
    payments = shop.payments(10)
    payments[3] = shop.payment(route_id=str(uuid4()))
    payments[7] = payments[2] | {"monime_otp": "other1"}
    result = client("create_tickets", payments, chunk_size=10)
    assert result.total == len(result) == 10
    assert [outcome.ordinal for outcome in result] == list(range(1, 11))
    assert [outcome.monime_transaction_id for outcome in result.outcomes] == [
        payment["monime_transaction_id"] for payment in payments
    ]
    assert [(o.ordinal, o.outcome, o.reason) for o in result.failed] == [
        (4, "rejected", "route_not_found"),
        (8, "conflict", None),
    ]
    assert len(result.successful) == 8
    assert result[0] == result.outcomes[0]
    assert client("create_tickets", []).total == 0
    shop.assert_sound(8)


def test_long_lists_go_out_in_chunks_and_come_back_numbered_through(shop: Shop, connect: Call) -> None:
    client = connect(shop.dsn, connections=2)
    payments = shop.payments(1234)
    result = client("create_tickets", payments, chunk_size=100)
    assert [outcome.ordinal for outcome in result] == list(range(1, 1235))
    assert [outcome.monime_transaction_id for outcome in result] == [
        payment["monime_transaction_id"] for payment in payments
    ]
    streamed = client("stream_tickets", (dict(payment) for payment in payments), chunk_size=100)
    assert [outcome.ordinal for outcome in streamed] == list(range(1, 1235))
    assert {outcome.outcome for outcome in streamed} == {"duplicate"}
    assert [o.ticket_id for o in streamed] == [o.ticket_id for o in result]
    shop.assert_sound(1234)


def test_an_ordered_list_has_sequential_meaning_across_chunks(shop: Shop, connect: Call) -> None:
    client = connect(shop.dsn)
    payments = shop.payments(50)
    payments += [payment | {"amount": 1} for payment in payments]
    result = client("create_tickets", payments, chunk_size=10, ordered=True)
    assert [o.outcome for o in result] == ["created"] * 50 + ["conflict"] * 50


def test_catalog_calls(shop: Shop, connect: Call) -> None:
    client = connect(shop.dsn)
    [company] = client("upsert_companies", [CompanyRequest(name="Sewa Coaches")])
    assert company.outcome == "created"
    [unchanged, rejected] = client(
        "upsert_companies", [{"id": company.id, "name": "Sewa Coaches"}, {"name": " "}], strict=False
    )
    assert (unchanged.outcome, rejected.outcome, rejected.reason) == ("unchanged", "rejected", "name_invalid")
    assert (unchanged.ok, rejected.ok) == (True, False)
    [route] = client(
        "upsert_routes",
        [
            {
                "company_id": company.id,
                "name": "Freetown-Kenema",
                "origin": "Freetown",
                "destination": "Kenema",
                "fare": 15000,
            }
        ],
    )
    soon = datetime.now(UTC) + timedelta(days=1)
    [code] = client(
        "issue_payment_codes",
        [{"company_id": company.id, "code": "*715*9#", "total_tickets": 2, "expires_at": soon}],
    )
    assert client("get_company", company.id).name == "Sewa Coaches"
    assert client("get_route", company.id, route.id).fare == 15000
    assert client("get_payment_code", company.id, "*715*9#").id == code.id
    assert client("get_payment_code", company.id, "*715*8#") is None
    assert company.id in {listed.id for listed in client("list_companies")}
    assert [listed.id for listed in client("list_routes", company.id)] == [route.id]
    [listed_code] = client("list_payment_codes", company.id)
    assert (listed_code.code, listed_code.expires_at) == ("*715*9#", soon)
    [cancelled] = client("cancel_payment_codes", [{"company_id": company.id, "code": "*715*9#"}])
    assert cancelled.outcome == "cancelled"
    assert client("get_payment_code", company.id, "*715*9#").status == "cancelled"
    assert client("expire_payment_codes") == 0


def test_reads(shop: Shop, connect: Call) -> None:
    client = connect(shop.dsn)
    payments = [shop.payment(passenger_phone="+23276111222") for _ in range(3)]
    outcomes = client("create_tickets", payments)
    first = client("get_ticket", outcomes[0].ticket_id)
    assert first.monime_transaction_id == payments[0]["monime_transaction_id"]
    assert (first.amount, first.passenger_phone) == (5000, "+23276111222")
    assert client("get_ticket", outcomes[0].ticket_id, shop.company) == first
    assert client("get_ticket", outcomes[0].ticket_id, uuid4()) is None
    newest = client("tickets_by_phone", shop.company, "+23276111222", 2)
    rest = client("tickets_by_phone", shop.company, "+23276111222", 2, newest[-1].created_at, newest[-1].id)
    assert {ticket.id for ticket in newest + rest} == {outcome.ticket_id for outcome in outcomes}
    oldest = client("pending_tickets", shop.company, 1)
    others = client("pending_tickets", shop.company, 5, oldest[0].created_at, oldest[0].id)
    assert {ticket.id for ticket in oldest + others} == {outcome.ticket_id for outcome in outcomes}
    summary = client("company_summary", shop.company)
    assert (summary.tickets, summary.pending, summary.gross, summary.commission) == (3, 3, 15000, 750)
    assert client("company_summary", shop.company, to=datetime(2000, 1, 1, tzinfo=UTC)).tickets == 0
    assert client("company_summary", uuid4()) is None
    assert client("verify") == []


def test_money_that_did_not_become_a_ticket(shop: Shop, connect: Call) -> None:
    client = connect(shop.dsn, strict=False)
    masked = shop.payment(passenger_phone="+23276***222", amount="5e3")
    refused = client("create_ticket", masked)
    assert (refused.outcome, refused.reason) == ("rejected", "phone_invalid")
    [kept] = client("list_unapplied_payments")
    assert (kept.reason, kept.request["passenger_phone"]) == ("phone_invalid", "+23276***222")
    assert client("list_unapplied_payments", reason="otp_invalid") == []
    [tried] = client("apply_unapplied_payments", reason="phone_invalid")
    assert tried.outcome == "rejected"
    assert client("create_ticket", masked | {"passenger_phone": "+23276000222"}).outcome == "created"
    assert client("list_unapplied_payments") == []
    assert [p.resolved_at is not None for p in client("list_unapplied_payments", include_resolved=True)] == [
        True
    ]
    assert client("record_missing_transactions") == 0


def test_a_resolved_payment_without_a_reason_is_listed(shop: Shop, connect: Call) -> None:
    """One that was purged in the instant when it came back: see the constraint of the table."""
    client = connect(shop.dsn)
    created = client("create_ticket", shop.payment())
    shop.db.execute(
        "insert into farebox.unapplied_payments (monime_transaction_id, request, resolved_at, ticket_id)"
        " values (%s, '{}', now(), %s)",
        [created.monime_transaction_id, created.ticket_id],
    )
    [kept] = client("list_unapplied_payments", include_resolved=True)
    assert (kept.reason, kept.ticket_id) == (None, created.ticket_id)


def test_requests_that_no_program_would_write_come_back_readable(shop: Shop, connect: Call) -> None:
    client = connect(shop.dsn, strict=False)
    poison = [
        shop.payment(passenger_phone="\ud800"),
        shop.payment(passenger_phone="\0"),
        shop.payment(passenger_phone=float("nan")),
        b'{"monime_transaction_id": "deep", "x": %s}' % (b"[" * 3000 + b"]" * 3000),
        b'{"monime_transaction_id": "long", "amount": %s}' % (b"9" * 5000),
        b'{"monime_transaction_id": "huge", "amount": 1e400}',
        None,
        5,
    ]
    result = client("create_tickets", poison)
    assert [outcome.outcome for outcome in result] == ["rejected"] * 8
    assert len(client("list_unapplied_payments")) == 6


def test_a_bad_field_is_named_before_anything_is_sent(shop: Shop, connect: Call) -> None:
    client = connect(shop.dsn)
    bad = shop.payment(passenger_phone="076123456", amount=0)
    as_json = str(bad).replace("'", '"').encode()
    for method, argument, ordinal in (
        ("create_ticket", bad, 1),
        ("create_tickets", [*shop.payments(3), bad], 4),
        ("create_tickets", [*shop.payments(3), as_json], 4),
    ):
        with pytest.raises(InvalidRequestError) as raised:
            client(method, argument)
        assert [(e.ordinal, e.field) for e in raised.value.errors] == [
            (ordinal, "passenger_phone"),
            (ordinal, "amount"),
        ]
        assert "076123456" not in f"{raised.value} {raised.value!r}"
        assert raised.value.__context__ is None
    assert shop.tickets() == 0
    with pytest.raises(InvalidRequestError):
        client("upsert_routes", [{"company_id": "x"}])


def test_misuse_and_missing_rights_are_told_apart(shop: Shop, connect: Call) -> None:
    admin = connect(shop.dsn)
    with pytest.raises(UsageError) as usage:
        admin("list_companies", 10**6)
    assert usage.value.sqlstate == "TK003"
    assert usage.value.hint
    with pytest.raises(UsageError, match="time zone"):
        admin("company_summary", shop.company, datetime(2026, 1, 1))  # noqa: DTZ001
    with pytest.raises(UsageError, match="NUL"):
        admin("tickets_by_phone", shop.company, "+232\0")
    with pytest.raises(UsageError, match="consistency"):
        admin("get_ticket", uuid4(), consistency="own-writes")
    with pytest.raises(UsageError, match="chunk_size"):
        admin("create_tickets", [], chunk_size=10_001)
    app = connect(shop.db.login("farebox_app"))
    assert app("create_ticket", shop.payment()).outcome == "created"
    with pytest.raises(PermissionDeniedError):
        app("verify")


def test_a_database_without_farebox_says_what_to_do(blank_db: Database, connect: Call) -> None:
    with pytest.raises(NotMigratedError, match="farebox migrate"):
        connect(blank_db.dsn)("list_companies")


def test_both_clients_have_the_same_methods() -> None:
    def methods(kind: type) -> dict[str, list[tuple[str, object, object]]]:
        return {
            name: [
                (parameter.name, parameter.kind, parameter.default)
                for parameter in inspect.signature(member).parameters.values()
            ]
            for name, member in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith("_")
        }

    assert methods(Farebox) == methods(AsyncFarebox)
    for one, other in ((AsyncFarebox, Farebox), (AsyncQueuedTicket, QueuedTicket)):
        names = [name for name in dir(one) if not name.startswith("_")]
        assert names == [name for name in dir(other) if not name.startswith("_")]
        for name in names:
            assert inspect.getdoc(getattr(one, name)) == inspect.getdoc(getattr(other, name)), name


def test_ids_may_be_written_as_the_database_reads_them(shop: Shop, connect: Call) -> None:
    spelled = "{" + str(shop.company).upper().replace("-", "") + "}"
    client = connect(shop.dsn)
    assert client("create_ticket", shop.payment(company_id=f" {spelled} ")).outcome == "created"
    assert UUID(spelled) == shop.company
