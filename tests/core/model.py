"""Section 3 of the contract in plain Python: one element after the other, in memory, no concurrency.

Written from the contract, not from the SQL. Where the contract leaves something open, the choice that the
SQL documents is marked with "open:".
"""

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Any, cast
from uuid import UUID

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)
_PHONE = re.compile(r"\+[1-9][0-9]{6,14}", re.ASCII)
_OTP = re.compile(r"[A-Za-z0-9]{4,12}", re.ASCII)
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?", re.ASCII)
_EXACT = Context(prec=5000, Emax=10**9, Emin=-(10**9))

COMPARED = ("route_id", "passenger_phone", "payment_code", "monime_otp", "amount")


class JsonNumber(str):
    """A JSON number as it is written: 5e3 and 1e400 stay what they are."""


class Unreadable:
    """A string with a NUL or half a surrogate pair: JSON can write it, no text can hold it."""


UNREADABLE = Unreadable()


@dataclass(eq=False)
class Company:
    """A company."""

    rate: Decimal
    suspended: bool = False


@dataclass(eq=False)
class Route:
    """A route of one company."""

    company: UUID
    inactive: bool = False


@dataclass(eq=False)
class Code:
    """A payment code; ``route`` None: good for any route of the company."""

    id: UUID
    company: UUID
    route: UUID | None
    total: int
    expires_at: datetime | None = None
    used: int = 0
    status: str = "active"

    def refusal(self, now: datetime) -> str | None:
        """Why it cannot be charged, None when it can."""
        if self.status == "cancelled":
            return "code_cancelled"
        if self.expires_at is not None and self.expires_at <= now:
            return "code_expired"
        if self.status == "expired" and self.used < self.total:
            return "code_expired"
        return "code_exhausted" if self.used >= self.total else None

    def charge(self) -> None:
        """One more ticket; the use that reaches the total expires the code."""
        self.used += 1
        if self.used == self.total:
            self.status = "expired"

    def change(self, total: int, expires_at: datetime | None, now: datetime) -> str:
        """The administrator's new terms; returns the outcome, or reason, of ``issue_payment_codes``."""
        if total < self.used:
            return "total_below_used"
        if (total, expires_at) == (self.total, self.expires_at):
            return "unchanged"
        if self.status == "cancelled":
            return "code_cancelled"
        was_over = self.used >= self.total or (self.expires_at is not None and self.expires_at <= now)
        self.total, self.expires_at = total, expires_at
        if self.used == total and self.status == "active":
            self.status = "expired"
        elif self.status == "expired" and was_over and self.used < total:
            # open: a code that was spent, or whose time was over, sells again once it has uses and time left.
            has_time = expires_at is None or expires_at > now
            self.status = "active" if has_time else "expired"
        return "updated"


@dataclass(eq=False)
class Ticket:
    """A ticket; ``id`` is set once the database has told it."""

    company: UUID
    route: UUID
    phone: str
    otp: str
    code: str | None
    amount: int
    rate: Decimal
    created_at: datetime
    id: UUID | None = None

    @property
    def commission(self) -> int:
        """Amount x rate, rounded half away from zero."""
        return int((self.amount * self.rate).quantize(Decimal(1), ROUND_HALF_UP, _EXACT))


@dataclass(eq=False)
class Unapplied:
    """A rejected payment; ``company`` None: companies disagree about it, or it names none."""

    company: UUID | None
    request: str
    reason: str
    first_seen: datetime
    last_seen: datetime
    attempts: int = 1
    ticket: Ticket | None = None


@dataclass(eq=False)
class Expected:
    """What one element gives. ``given``: the transaction id as given, None when it was no text."""

    outcome: str
    given: str | None
    reason: str | None = None
    ticket: Ticket | None = None
    differing: list[str] | None = None


@dataclass(eq=False)
class Model:
    """All that Farebox knows. ``apply`` is one element of a batch."""

    now: datetime
    companies: dict[UUID, Company] = field(default_factory=dict[UUID, Company])
    routes: dict[UUID, Route] = field(default_factory=dict[UUID, Route])
    codes: dict[str, Code] = field(default_factory=dict[str, Code])
    tickets: dict[str, Ticket] = field(default_factory=dict[str, Ticket])
    unapplied: dict[tuple[str, int], Unapplied] = field(default_factory=dict[tuple[str, int], Unapplied])
    place: Callable[[UUID | None, str], int] = lambda _company, _transaction: 0
    """Behind a router: the number of the shard that keeps the rejected payments of that company."""

    def apply_all(self, elements: Iterable[str]) -> list[Expected]:
        """A batch: its elements one after the other."""
        return [self.apply(element) for element in elements]

    def apply(self, element: str) -> Expected:
        """One element, as JSON text."""
        request = _Request(element)
        expected = self._judge(request)
        if request.transaction is not None:
            self._keep(request.transaction, request.company, element, expected)
        return expected

    def open_payments(self, limit: int, reason: str | None) -> list[str]:
        """What ``apply_unapplied_payments`` tries, in its order. open: least recently tried first."""
        found = [
            (kept.last_seen, transaction.encode(), place, kept.request)
            for (transaction, place), kept in self.unapplied.items()
            if kept.ticket is None and reason in (None, kept.reason)
        ]
        return [request for *_, request in sorted(found)[:limit]]

    def cancel(self, code: str) -> str:
        """The administrator cancels a code."""
        if self.codes[code].status == "cancelled":
            return "unchanged"
        self.codes[code].status = "cancelled"
        return "cancelled"

    def expire(self) -> int:
        """``expire_payment_codes``: how many active codes' time is over."""
        over = [
            code
            for code in self.codes.values()
            if code.status == "active" and code.expires_at is not None and code.expires_at <= self.now
        ]
        for code in over:
            code.status = "expired"
        return len(over)

    def _keep(self, transaction: str, company: UUID | None, element: str, expected: Expected) -> None:
        place = self.place(company, transaction)
        kept = self.unapplied.get((transaction, place))
        if expected.outcome == "rejected" and expected.reason != "transaction_id_unavailable":
            assert expected.reason is not None
            if kept is None:
                kept = Unapplied(company, element, expected.reason, self.now, self.now)
                self.unapplied[transaction, place] = kept
            else:
                kept.request, kept.reason, kept.last_seen = element, expected.reason, self.now
                kept.attempts += 1
                if kept.company != company:
                    kept.company = None
        # open: whatever brings the payment up again while it has a ticket resolves the row.
        ticket = self.tickets.get(transaction)
        if ticket is None:
            return
        for (other, _), kept in self.unapplied.items():
            if other == transaction:
                kept.ticket = ticket
                if kept.company != ticket.company:
                    kept.company = None

    def _judge(self, request: "_Request") -> Expected:
        given = request.given

        def rejected(reason: str) -> Expected:
            return Expected("rejected", given, reason)

        if request.transaction is None:
            return rejected("transaction_id_invalid")
        if request.company is None:
            return rejected("company_id_invalid")

        ticket = self.tickets.get(request.transaction)
        if ticket is not None:
            if ticket.company != request.company:
                return rejected("transaction_id_unavailable")
            differing = [
                name for name, same in zip(COMPARED, request.agrees(ticket), strict=True) if not same
            ]
            if differing:
                return Expected("conflict", given, ticket=ticket, differing=differing)
            return Expected("duplicate", given, ticket=ticket)

        for name in ("route_id", "phone", "otp", "amount", "commission_rate"):
            if name in request.malformed:
                return rejected(f"{name}_invalid")
        assert request.route is not None
        assert request.phone is not None
        assert request.otp is not None
        assert request.amount is not None

        company = self.companies.get(request.company)
        if company is None:
            return rejected("company_not_found")
        if company.suspended:
            return rejected("company_suspended")
        route = self.routes.get(request.route)
        if route is None or route.company != request.company:
            return rejected("route_not_found")
        if route.inactive:
            return rejected("route_inactive")
        code: Code | None = None
        if request.code is not None:
            code = self.codes.get(request.code) if isinstance(request.code, str) else None
            if code is None or code.company != request.company:
                return rejected("code_not_found")
            if code.route not in (None, request.route):
                return rejected("code_route_mismatch")
            refusal = code.refusal(self.now)
            if refusal is not None:
                return rejected(refusal)
            code.charge()

        ticket = Ticket(
            request.company,
            request.route,
            request.phone,
            request.otp,
            request.code if isinstance(request.code, str) else None,
            request.amount,
            company.rate if request.rate is None else request.rate,
            self.now,
        )
        self.tickets[request.transaction] = ticket
        return Expected("created", given, ticket=ticket)


class _Request:
    """An element, normalised. What is malformed is None and named in ``malformed``."""

    def __init__(self, element: str) -> None:
        fields = _read(element)
        self.malformed: set[str] = set()

        raw_transaction = fields.get("monime_transaction_id")
        self.given = str(raw_transaction) if _is_text(raw_transaction) else None
        self.transaction = self.given.strip() if self.given is not None else None
        if self.transaction is not None and not 1 <= len(self.transaction) <= 64:
            self.transaction = None

        self.company = _uuid(fields.get("company_id"))
        self.route = self._required("route_id", _uuid(fields.get("route_id")))
        self.phone = self._required("phone", _phone(fields.get("passenger_phone")))
        self.otp = self._required("otp", _matching(_OTP, fields.get("monime_otp")))
        amount = self._required("amount", _number(fields.get("amount"), 1, 10**12, 0))
        self.amount = None if amount is None else int(amount)

        rate = fields.get("commission_rate")
        # open: null is absent.
        self.rate = None if rate is None else self._required("commission_rate", _number(rate, 0, 1, 4))
        self.code: str | Unreadable | None
        match fields.get("payment_code"):
            case JsonNumber():
                self.code = UNREADABLE
            case str() as code:
                self.code = code.strip() or None
            case None:
                self.code = None
            case _:
                # open: no text, so it names no code.
                self.code = UNREADABLE

    def _required(self, name: str, value: Any) -> Any:
        if value is None:
            self.malformed.add(name)
        return value

    def agrees(self, ticket: Ticket) -> list[bool]:
        """Whether each of the compared fields is what is stored."""
        return [
            self.route == ticket.route,
            self.phone == ticket.phone,
            self.code == ticket.code,
            self.otp == ticket.otp,
            self.amount == ticket.amount,
        ]


def _read(element: str) -> dict[str, Any]:
    """The fields; strings that no text can hold are UNREADABLE. Of repeated keys the last one counts."""

    def readable(value: Any) -> Any:
        match value:
            case JsonNumber():
                return value
            case str():
                broken = "\0" in value or any("\ud800" <= character <= "\udfff" for character in value)
                return UNREADABLE if broken else value
            case _:
                return value

    def an_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return {key: readable(value) for key, value in pairs}

    parsed: Any = json.loads(
        element, parse_int=JsonNumber, parse_float=JsonNumber, object_pairs_hook=an_object
    )
    # What is no object lacks every field.
    return cast(dict[str, Any], parsed) if isinstance(parsed, dict) else {}


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not isinstance(value, JsonNumber)


def _matching(pattern: re.Pattern[str], value: Any) -> str | None:
    if not _is_text(value):
        return None
    text: str = value.strip()
    return text if pattern.fullmatch(text) else None


def _uuid(value: Any) -> UUID | None:
    text = _matching(_UUID, value)
    return None if text is None else UUID(text)


def _phone(value: Any) -> str | None:
    return _matching(_PHONE, re.sub(r"[ .()-]", "", value.strip())) if _is_text(value) else None


def _number(value: Any, low: int, high: int, decimals: int) -> Decimal | None:
    if not isinstance(value, str):
        return None
    text = value if isinstance(value, JsonNumber) else value.strip()
    if not _NUMBER.fullmatch(text):
        return None
    number = _EXACT.create_decimal(text)
    if not low <= number <= high or number != number.quantize(Decimal(1).scaleb(-decimals), context=_EXACT):
        return None
    return number
