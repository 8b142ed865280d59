"""The only SQL of the driver: one `Call` for each function of the schema `farebox`, under the name it has there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from farebox.models import (
    CatalogOutcome,
    Company,
    CompanySummary,
    PaymentCode,
    Route,
    Ticket,
    TicketOutcome,
    UnappliedPayment,
    Violation,
)

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Call(Generic[R]):
    """One function: its name, its parameters as (name, SQL type) in SQL's own spelling, and the type of its rows.

    `row` is a model, or a plain type for a function with one unnamed column. `writes` tells what must reach the primary.
    """

    function: str
    parameters: tuple[tuple[str, str], ...]
    row: type[R]
    writes: bool
    sql: str = field(init=False)

    def __post_init__(self) -> None:
        arguments = ", ".join(
            f"{name} => ${position}::{kind}" for position, (name, kind) in enumerate(self.parameters, 1)
        )
        object.__setattr__(self, "sql", f"select * from farebox.{self.function}({arguments})")


_BATCH = (("p_batch", "json"),)

CREATE_TICKETS = Call("create_tickets", _BATCH, TicketOutcome, writes=True)
CREATE_TICKET = Call("create_ticket", (("p_ticket", "json"),), TicketOutcome, writes=True)
RECORD_MISSING_TRANSACTIONS = Call("record_missing_transactions", (("p_limit", "int"),), int, writes=True)
APPLY_UNAPPLIED_PAYMENTS = Call(
    "apply_unapplied_payments", (("p_limit", "int"), ("p_reason", "text")), TicketOutcome, writes=True
)
UPSERT_COMPANIES = Call("upsert_companies", _BATCH, CatalogOutcome, writes=True)
UPSERT_ROUTES = Call("upsert_routes", _BATCH, CatalogOutcome, writes=True)
ISSUE_PAYMENT_CODES = Call("issue_payment_codes", _BATCH, CatalogOutcome, writes=True)
CANCEL_PAYMENT_CODES = Call("cancel_payment_codes", _BATCH, CatalogOutcome, writes=True)
EXPIRE_PAYMENT_CODES = Call("expire_payment_codes", (("p_limit", "int"),), int, writes=True)
GET_TICKET = Call("get_ticket", (("p_ticket_id", "uuid"), ("p_company_id", "uuid")), Ticket, writes=False)
TICKETS_BY_PHONE = Call(
    "tickets_by_phone",
    (
        ("p_company_id", "uuid"),
        ("p_phone", "text"),
        ("p_limit", "int"),
        ("p_before_created_at", "timestamptz"),
        ("p_before_id", "uuid"),
    ),
    Ticket,
    writes=False,
)
PENDING_TICKETS = Call(
    "pending_tickets",
    (
        ("p_company_id", "uuid"),
        ("p_limit", "int"),
        ("p_after_created_at", "timestamptz"),
        ("p_after_id", "uuid"),
    ),
    Ticket,
    writes=False,
)
COMPANY_SUMMARY = Call(
    "company_summary",
    (("p_company_id", "uuid"), ("p_from", "timestamptz"), ("p_to", "timestamptz")),
    CompanySummary,
    writes=False,
)
VERIFY = Call("verify", (), Violation, writes=False)
LIST_COMPANIES = Call("list_companies", (("p_limit", "int"), ("p_after_id", "uuid")), Company, writes=False)
_OF_COMPANY = (("p_company_id", "uuid"), ("p_limit", "int"), ("p_after_id", "uuid"))
LIST_ROUTES = Call("list_routes", _OF_COMPANY, Route, writes=False)
LIST_PAYMENT_CODES = Call("list_payment_codes", _OF_COMPANY, PaymentCode, writes=False)
LIST_UNAPPLIED_PAYMENTS = Call(
    "list_unapplied_payments",
    (
        ("p_limit", "int"),
        ("p_reason", "text"),
        ("p_after_last_seen_at", "timestamptz"),
        ("p_after_transaction_id", "text"),
        ("p_include_resolved", "boolean"),
    ),
    UnappliedPayment,
    writes=False,
)
