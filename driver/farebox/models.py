"""Requests and results as pydantic models: one for each element type and each row type of the SQL API.

The checks of a request refuse only what the database would refuse too, and values go to the database as
they came: normalising is its business. Fields that name a person or open a bus door (phone, OTP, raw
requests) stay out of every repr, and pydantic's own errors do not quote input.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Annotated, Any, Literal, overload
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

__all__ = [
    "CatalogOutcome",
    "Company",
    "CompanyRequest",
    "CompanySummary",
    "CreateResult",
    "PaymentCode",
    "PaymentCodeKey",
    "PaymentCodeRequest",
    "Request",
    "Route",
    "RouteRequest",
    "Row",
    "Ticket",
    "TicketOutcome",
    "TicketRequest",
    "UnappliedPayment",
    "Violation",
]

MAX_AMOUNT = 10**12

_SEPARATORS = r"[\s.()\-]*"


def _stripped(value: object) -> object:
    return value.strip() if isinstance(value, str) else value


def _id(value: object) -> object:
    """PostgreSQL reads more spellings of a UUID than pydantic; the usual one costs nothing here."""
    if isinstance(value, str) and (len(value) != 36 or value[8] != "-"):
        try:
            return UUID(value.strip())
        except ValueError:
            return value
    return value


def _whole(value: object) -> object:
    """'5e3' and '5000.00' are amounts too; true is none."""
    if isinstance(value, bool):
        raise ValueError("must be a number")
    if isinstance(value, str):
        try:
            number = Decimal(value.strip())
        except InvalidOperation:
            return value
        # The bound keeps '1e999999' from becoming a number of a million digits.
        return (
            int(number)
            if number.is_finite() and number.copy_abs() <= MAX_AMOUNT and number % 1 == 0
            else value
        )
    return value


def _rate(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return _stripped(value)


def either(usual: Any, unusual: Any) -> Any:
    """The usual spelling is checked without a call to Python; what is not usual gets its full hearing."""
    return Annotated[usual | unusual, Field(union_mode="left_to_right")]


ID_AS_TEXT: Any = Annotated[
    str, StringConstraints(pattern=r"^[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$")
]
"""The usual spelling of an id, for a check that nobody wants a `UUID` from."""


def _text(usual: str, full: str) -> Any:
    return either(
        Annotated[str, StringConstraints(pattern=usual)], Annotated[str, StringConstraints(pattern=full)]
    )


if TYPE_CHECKING:
    Id = UUID
    Money = int
    TransactionId = str
    Phone = str
else:
    Id = either(UUID, Annotated[UUID, BeforeValidator(_id)])
    Money = either(
        Annotated[int, Field(strict=True, ge=1, le=MAX_AMOUNT)],
        Annotated[int, BeforeValidator(_whole), Field(ge=1, le=MAX_AMOUNT)],
    )
    TransactionId = _text(r"^[!-~]{1,64}$", r"(?s)^\s*\S(?:.{0,62}\S)?\s*$")
    Phone = _text(
        r"^\+[1-9][0-9]{6,14}$",
        rf"^{_SEPARATORS}\+{_SEPARATORS}[1-9](?:{_SEPARATORS}[0-9]){{6,14}}{_SEPARATORS}$",
    )
Rate = Annotated[Decimal, BeforeValidator(_rate), Field(ge=0, le=1, decimal_places=4, allow_inf_nan=False)]
Text = Annotated[str, StringConstraints(pattern=r"\S")]
Otp = Annotated[str, StringConstraints(pattern=r"^\s*[A-Za-z0-9]{4,12}\s*$")]


class Request(BaseModel):
    """Base of what is sent: unknown keys are ignored, as the database ignores them."""

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)


class TicketRequest(Request):
    """One payment that is to become a ticket.

    `amount` counts minor units (SLE 1 = 100); `passenger_phone` is E.164, separators allowed;
    `commission_rate` is a share from 0 to 1 with at most four decimals, None for the company's own.
    """

    company_id: Id
    route_id: Id
    passenger_phone: Phone = Field(repr=False)
    monime_transaction_id: TransactionId
    monime_otp: Otp = Field(repr=False)
    amount: Money
    commission_rate: Rate | None = None
    payment_code: str | None = None


class CompanyRequest(Request):
    """A company to add (no `id`) or to change (`id` given: keys left out keep what is stored)."""

    id: Id | None = None
    name: Text | None = None
    monime_account_id: str | None = None
    commission_rate: Rate | None = None
    status: Literal["active", "suspended"] | None = None


class RouteRequest(Request):
    """A route to add or to change, as with companies; `fare` counts minor units."""

    company_id: Id
    id: Id | None = None
    name: Text | None = None
    origin: Text | None = None
    destination: Text | None = None
    fare: Money | None = None
    status: Literal["active", "inactive"] | None = None


class PaymentCodeRequest(Request):
    """A payment code good for `total_tickets` tickets, on one route or (None) on any of the company's."""

    company_id: Id
    code: Text
    id: Id | None = None
    route_id: Id | None = None
    total_tickets: int | None = Field(default=None, ge=1)
    expires_at: datetime | None = None


class PaymentCodeKey(Request):
    """Names a payment code, to cancel it."""

    company_id: Id
    code: Text


class Row(BaseModel):
    """Base of what comes back; columns that a later database adds are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    @property
    def is_lost(self) -> bool:
        """Whether a router could not ask this row's shard: the same element again is right."""
        return False


class TicketOutcome(Row):
    """What became of one payment; `ordinal` counts the elements of the call from 1.

    `reason` is set for `rejected` only, `ticket_id` for `created` and `duplicate`, `existing_ticket_id`
    and `differing` (names of fields) for `conflict`. `transaction_recorded` false means the money record
    follows later by itself.
    """

    ordinal: int
    monime_transaction_id: str | None
    outcome: Literal["created", "duplicate", "conflict", "rejected"]
    reason: str | None
    ticket_id: UUID | None
    existing_ticket_id: UUID | None
    differing: tuple[str, ...] | None
    transaction_recorded: bool | None

    @property
    def is_lost(self) -> bool:
        """Whether a router could not ask the company's shard: nothing is known, and asking again is right."""
        return self.reason == "shard_unavailable"

    @property
    def ok(self) -> bool:
        """Whether the payment has its ticket: `created` or `duplicate`."""
        return self.ticket_id is not None


class CatalogOutcome(Row):
    """What became of one catalog element.

    Created, updated, unchanged, cancelled or (with a `reason`) rejected.
    """

    ordinal: int
    id: UUID | None
    outcome: Literal["created", "updated", "unchanged", "cancelled", "rejected"]
    reason: str | None

    @property
    def ok(self) -> bool:
        """Whether the element stands as asked."""
        return self.outcome != "rejected"


class Ticket(Row):
    """A ticket as stored; `amount` in minor units."""

    id: UUID
    company_id: UUID
    route_id: UUID
    passenger_phone: str = Field(repr=False)
    monime_transaction_id: str
    monime_otp: str = Field(repr=False)
    payment_code_id: UUID | None
    payment_code: str | None
    amount: int
    commission_rate: Decimal
    status: Literal["pending", "used", "expired", "cancelled"]
    created_at: datetime


class Company(Row):
    """A company as stored."""

    id: UUID
    name: str
    monime_account_id: str | None
    commission_rate: Decimal
    status: Literal["active", "suspended"]
    created_at: datetime


class Route(Row):
    """A route as stored; `fare` in minor units."""

    id: UUID
    company_id: UUID
    name: str
    origin: str
    destination: str
    fare: int
    status: Literal["active", "inactive"]
    created_at: datetime


class PaymentCode(Row):
    """A payment code as stored."""

    id: UUID
    company_id: UUID
    route_id: UUID | None
    code: str
    total_tickets: int
    used_tickets: int
    status: Literal["active", "expired", "cancelled"]
    expires_at: datetime | None
    created_at: datetime


class CompanySummary(Row):
    """Counts of tickets by status and sums of money (minor units) of one company over a span of time."""

    company_id: UUID
    tickets: int
    pending: int
    used: int
    expired: int
    cancelled: int
    gross: int
    commission: int
    net_amount: int


class UnappliedPayment(Row):
    """Money that arrived and could not become a ticket, with the request as it came.

    `reason` is None only for a resolved row: one that was purged in the instant when it came back.
    """

    monime_transaction_id: str
    company_id: UUID | None
    request: Any = Field(repr=False)
    reason: str | None
    first_seen_at: datetime
    last_seen_at: datetime
    attempts: int
    earlier_requests: tuple[Any, ...] | None = Field(default=None, repr=False)
    resolved_at: datetime | None
    ticket_id: UUID | None


class Violation(Row):
    """One broken invariant of the database."""

    invariant: str
    subject: str
    detail: str


@dataclass(frozen=True, slots=True)
class CreateResult(Sequence[TicketOutcome]):
    """The outcomes of `create_tickets`, one an input and in the order of the input."""

    outcomes: tuple[TicketOutcome, ...]

    @property
    def total(self) -> int:
        """The number of inputs."""
        return len(self.outcomes)

    @property
    def successful(self) -> list[TicketOutcome]:
        """`created` and `duplicate`: the payments that have their ticket."""
        return [outcome for outcome in self.outcomes if outcome.ok]

    @property
    def failed(self) -> list[TicketOutcome]:
        """`conflict` and `rejected`: the payments that need a look."""
        return [outcome for outcome in self.outcomes if not outcome.ok]

    def __len__(self) -> int:
        return len(self.outcomes)

    def __iter__(self) -> Iterator[TicketOutcome]:
        return iter(self.outcomes)

    @overload
    def __getitem__(self, index: int) -> TicketOutcome: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[TicketOutcome]: ...
    def __getitem__(self, index: int | slice) -> TicketOutcome | Sequence[TicketOutcome]:
        return self.outcomes[index]
