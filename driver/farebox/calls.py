"""The only SQL of the driver.

One `Call` for each function of the schema `farebox`, under the name it has there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from farebox._rows import Maker, Rows
from farebox.errors import DatabaseError
from farebox.models import (
    CatalogOutcome,
    Company,
    CompanySummary,
    PaymentCode,
    Route,
    Row,
    Ticket,
    TicketOutcome,
    UnappliedPayment,
    Violation,
)

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Call(Generic[R]):
    """One function: its name, its parameters as (name, SQL type) in SQL's spelling, the type of its rows.

    `row` is a model, or a plain type for a function with one unnamed column. `writes` tells whether what
    it changes is to be seen by reads that ask for it. `sql` follows from these unless it is given.
    """

    function: str
    parameters: tuple[tuple[str, str], ...]
    row: type[R]
    writes: bool = False
    sql: str = ""
    _load: Callable[[Any], list[R]] = field(init=False, repr=False)
    _maker: Maker[Any] | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        arguments = ", ".join(
            f"{name} => ${position}::{kind}" for position, (name, kind) in enumerate(self.parameters, 1)
        )
        if not self.sql:
            object.__setattr__(self, "sql", f"select * from farebox.{self.function}({arguments})")
        object.__setattr__(self, "_maker", Maker(self.row) if issubclass(self.row, Row) else None)
        object.__setattr__(self, "_load", TypeAdapter(list[self.row]).validate_python)  # type: ignore[name-defined]

    def load(self, rows: Rows) -> list[R]:
        """The rows as models.

        Raises `DatabaseError` when they do not fit, naming the columns, not the values.
        """
        problems: str
        try:
            if self._maker is None:
                return self._load([value for row in rows.values for value in row])
            models: list[R] | None = self._maker.make(rows)
            return self._load(rows.as_dicts()) if models is None else models
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, problem['loc'][1:]))}: {problem['msg']}"
                for problem in error.errors(include_url=False, include_context=False, include_input=False)[:3]
            )
        raise DatabaseError(
            f"{self.function} answered rows that do not fit: {problems}",
            hint="the database may be newer or older than this driver",
        )


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
GET_TICKET = Call("get_ticket", (("p_ticket_id", "uuid"), ("p_company_id", "uuid")), Ticket)
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
)
COMPANY_SUMMARY = Call(
    "company_summary",
    (("p_company_id", "uuid"), ("p_from", "timestamptz"), ("p_to", "timestamptz")),
    CompanySummary,
)
VERIFY = Call("verify", (), Violation)
GET_COMPANY = Call("get_company", (("p_company_id", "uuid"),), Company)
GET_ROUTE = Call("get_route", (("p_company_id", "uuid"), ("p_route_id", "uuid")), Route)
GET_PAYMENT_CODE = Call("get_payment_code", (("p_company_id", "uuid"), ("p_code", "text")), PaymentCode)
LIST_COMPANIES = Call("list_companies", (("p_limit", "int"), ("p_after_id", "uuid")), Company)
_OF_COMPANY = (("p_company_id", "uuid"), ("p_limit", "int"), ("p_after_id", "uuid"))
LIST_ROUTES = Call("list_routes", _OF_COMPANY, Route)
LIST_PAYMENT_CODES = Call("list_payment_codes", _OF_COMPANY, PaymentCode)
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
)

# Two positions in the write-ahead log, in bytes: behind every answered commit of this server, and what
# it has replayed. Commits are flushed before they are answered unless the session was told otherwise;
# what lies behind the flushed part (hints, pruning) can stay there for a while, and is nothing to wait
# for. A router for reads cannot tell: its log is not that of the shards' standbys.
WRITTEN = Call(
    "wal_written",
    (),
    int,
    sql="select pg_catalog.pg_wal_lsn_diff("
    "case when pg_catalog.current_setting('synchronous_commit') = 'off'"
    " then pg_catalog.pg_current_wal_insert_lsn() else pg_catalog.pg_current_wal_flush_lsn() end,"
    " '0/0')::bigint",
)
REPLAYED = Call(
    "wal_replayed",
    (),
    int,
    sql="select case when pg_catalog.to_regclass('farebox.shards') is null then pg_catalog.pg_wal_lsn_diff("
    "case when pg_catalog.pg_is_in_recovery()"
    " then pg_catalog.pg_last_wal_replay_lsn() else pg_catalog.pg_current_wal_insert_lsn() end,"
    " '0/0') else -1 end::bigint",
)

# Not calls, but SQL of the driver all the same.
BACKEND_PID: Final = "select pg_catalog.pg_backend_pid()"
LISTEN: Final = "listen farebox_catalog"
