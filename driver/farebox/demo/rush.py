"""The morning rush: a stream of payment webhooks as dirty as real ones, and what each of them must end in.

Payments arrive one after the other; some are delivered again later: as they were, in another notation,
repaired, or with other content. Every delivery is rendered as one line of JSON (or of something that is not
JSON) together with the outcome the contract demands for it, so a run can be checked to the last line.
Phones and OTPs are made up.
"""

from __future__ import annotations

import heapq
import json
from base64 import b32encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from random import Random
from uuid import UUID, uuid5

from farebox.demo.catalogue import COMPANIES, NAMESPACE, Company, PaymentCode, Route

SHARE_WITH_CODE = 0.12
PAYMENTS_PER_CODE = 250
REDELIVERY_SPREAD = 400
"""A redelivery comes at most this many payments after the first delivery."""

_CHANNELS = ("orange-money", "afrimoney", "qmoney")
_OPERATORS = ("30", "33", "34", "75", "76", "77", "78", "79", "88", "99")
_OTP_ALPHABET = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the file, and the outcome and reason that `farebox import` must give it."""

    data: bytes
    outcome: str
    reason: str | None = None


@dataclass(slots=True)
class _Code:
    """A payment code with the uses the tickets of this rush have taken so far."""

    spec: PaymentCode
    id: UUID
    used: int = 0


@dataclass(frozen=True, slots=True)
class _Fields:
    """What a payment says, normalised: the fields a replay is compared by."""

    route: Route
    phone: str
    code: _Code | None
    otp: str
    amount: int


@dataclass(slots=True)
class _Payment:
    """One payment; `stored` is what its ticket holds once there is one."""

    company: Company
    transaction_id: str
    fields: _Fields
    stored: _Fields | None = None


@dataclass(frozen=True, slots=True)
class _Delivery:
    """One webhook call: keys laid over the clean rendering, and the reason that must be given for them."""

    payment: _Payment
    fields: _Fields
    overlay: dict[str, object]
    defect: str | None = None
    garbage: bytes | None = None
    foreign_company: Company | None = None


_Dirt = Callable[[_Payment], _Delivery]


class Rush:
    """`payments` distinct payments of the rush number `seed`; iterate once to get its lines in order.

    The same seed gives the same ids, codes and lines. Apart from the codes, memory does not grow with the
    number of payments.
    """

    def __init__(self, payments: int, seed: int) -> None:
        self.payments = payments
        self.seed = seed
        self._rng = Random(seed)
        self._active = [company for company in COMPANIES if company.status == "active"]
        self._routes = [
            (company, route)
            for company in self._active
            for route in company.routes
            if route.status == "active"
        ]
        self._route_weights = [route.weight for _, route in self._routes]
        self._codes = [self._new_code(number) for number in range(max(6, payments // PAYMENTS_PER_CODE))]
        self._usable = [code for code in self._codes if not code.spec.cancelled]
        self._code_weights = [self._rng.randint(1, 5) for _ in self._usable]
        self._dirt: tuple[tuple[float, _Dirt], ...] = (
            (0.0100, self._masked_phone),
            (0.0060, self._local_phone),
            (0.0030, self._wrong_amount),
            (0.0020, self._wrong_otp),
            (0.0005, self._wrong_rate),
            (0.0010, self._wrong_transaction_id),
            (0.0010, self._wrong_company_id),
            (0.0010, self._wrong_route_id),
            (0.0020, self._unknown_company),
            (0.0030, self._suspended_company),
            (0.0030, self._foreign_route),
            (0.0030, self._inactive_route),
            (0.0020, self._unknown_code),
            (0.0010, self._foreign_code),
            (0.0010, self._code_of_other_route),
            (0.0020, self._cancelled_code),
            (0.0010, self._garbage),
        )

    @property
    def codes(self) -> list[tuple[UUID, PaymentCode]]:
        """The payment codes that must be issued before the rush (and then cancelled, where they say so)."""
        return [(code.id, code.spec) for code in self._codes]

    def __iter__(self) -> Iterator[Line]:
        waiting: list[tuple[int, int, _Delivery]] = []
        serial = 0
        for moment in range(self.payments):
            while waiting and waiting[0][0] <= moment:
                yield self._settled(heapq.heappop(waiting)[2])
            payment = self._new_payment()
            first = self._first_delivery(payment)
            yield self._settled(first)
            for again in self._redeliveries(payment, first):
                serial += 1
                due = moment + self._rng.randint(1, REDELIVERY_SPREAD)
                heapq.heappush(waiting, (due, serial, again))
        while waiting:
            yield self._settled(heapq.heappop(waiting)[2])

    # What the contract demands, for the cases that occur here.

    def _settled(self, delivery: _Delivery) -> Line:
        if delivery.garbage is not None:
            return Line(delivery.garbage, "malformed", delivery.defect)
        outcome, reason = self._outcome(delivery)
        if outcome == "created":
            delivery.payment.stored = delivery.fields
            if delivery.fields.code is not None:
                delivery.fields.code.used += 1
        return Line(self._render(delivery), outcome, reason)

    def _outcome(self, delivery: _Delivery) -> tuple[str, str | None]:
        stored, code = delivery.payment.stored, delivery.fields.code
        if delivery.defect in ("transaction_id_invalid", "company_id_invalid"):
            return "rejected", delivery.defect
        foreign = delivery.foreign_company is not None
        if stored is not None:
            if foreign:
                return "rejected", "transaction_id_unavailable"
            return (
                ("duplicate", None)
                if stored == delivery.fields and not delivery.defect
                else ("conflict", None)
            )
        if delivery.defect is not None:
            return "rejected", delivery.defect
        if foreign:
            return "rejected", "route_not_found"
        if code is not None and code.used >= code.spec.total_tickets:
            return "rejected", "code_exhausted"
        return "created", None

    # Clean payments.

    def _new_code(self, number: int) -> _Code:
        company = self._active[number % len(self._active)]
        route = self._rng.choice([route for route in company.routes if route.status == "active"])
        code_id = uuid5(NAMESPACE, f"code/{self.seed}/{number}")
        spec = PaymentCode(
            company=company,
            route=route if number % 3 == 0 else None,
            code=b32encode(code_id.bytes).decode()[:8],
            total_tickets=self._rng.randint(8, 52),
            cancelled=number % 6 == 5,
        )
        return _Code(spec, code_id)

    def _new_payment(self) -> _Payment:
        rng = self._rng
        if rng.random() < SHARE_WITH_CODE:
            [code] = rng.choices(self._usable, self._code_weights)
            company = code.spec.company
            route = code.spec.route or rng.choice(
                [each for each in company.routes if each.status == "active"]
            )
            prefix = "pmc"
        else:
            [(company, route)] = rng.choices(self._routes, self._route_weights)
            code, prefix = None, "pay"
        fields = _Fields(
            route=route,
            phone=f"+232{rng.choice(_OPERATORS)}{rng.randrange(10**6):06d}",
            code=code,
            otp="".join(rng.choices(_OTP_ALPHABET, k=6)),
            amount=route.fare,
        )
        return _Payment(company, f"{prefix}-{rng.getrandbits(96):024x}", fields)

    def _first_delivery(self, payment: _Payment) -> _Delivery:
        chance = self._rng.random()
        for share, dirt in self._dirt:
            if chance < share:
                return dirt(payment)
            chance -= share
        return self._clean(payment)

    def _redeliveries(self, payment: _Payment, first: _Delivery) -> Iterator[_Delivery]:
        rng = self._rng
        if first.garbage is not None or first.defect == "phone_invalid":
            if rng.random() < 0.4:
                yield self._clean(payment)
        elif first.defect is None:
            chance = rng.random()
            if chance < 0.06:
                for _ in range(rng.choice((1, 1, 1, 2, 3))):
                    yield self._clean(payment)
            elif chance < 0.065:
                yield self._changed(payment)
            elif chance < 0.066:
                other = rng.choice([company for company in self._active if company is not payment.company])
                yield _Delivery(payment, payment.fields, {}, foreign_company=other)
        elif rng.random() < 0.2:
            yield first

    def _clean(self, payment: _Payment) -> _Delivery:
        return _Delivery(payment, payment.fields, self._notation(payment.fields))

    def _notation(self, fields: _Fields) -> dict[str, object]:
        """Harmless differences: the same values, written as the many systems on the way write them."""
        amount, phone = fields.amount, fields.phone
        variants: tuple[dict[str, object], ...] = (
            {"amount": str(amount)},
            {"amount": float(amount)},
            {"passenger_phone": f"{phone[:4]} {phone[4:6]} {phone[6:9]}-{phone[9:]}"},
            {"passenger_phone": f" {phone[:4]}({phone[4:6]}){phone[6:]} "},
            {"monime_otp": f"{fields.otp} "},
            {"channel": self._rng.choice(_CHANNELS), "currency": "SLE"},
        )
        return self._rng.choice(variants) if self._rng.random() < 0.3 else {}

    def _changed(self, payment: _Payment) -> _Delivery:
        """A replay with other content: a conflict, once the payment has its ticket."""
        rng, fields = self._rng, payment.fields
        others = [
            each for each in payment.company.routes if each.status == "active" and each is not fields.route
        ]
        if rng.random() < 0.3 and others and fields.code is None:
            changed = replace(fields, route=rng.choice(others))
        elif rng.random() < 0.5:
            changed = replace(fields, amount=fields.amount + 100 * rng.randint(1, 9))
        else:
            changed = replace(fields, otp="".join(rng.choices(_OTP_ALPHABET, k=6)))
        return _Delivery(payment, changed, {})

    def _render(self, delivery: _Delivery) -> bytes:
        fields, payment = delivery.fields, delivery.payment
        element: dict[str, object] = {
            "company_id": (delivery.foreign_company or payment.company).id,
            "route_id": fields.route.id,
            "passenger_phone": fields.phone,
            "monime_transaction_id": payment.transaction_id,
            "monime_otp": fields.otp,
            "amount": fields.amount,
        }
        if fields.code is not None:
            element["payment_code"] = fields.code.spec.code
        element.update(delivery.overlay)
        return json.dumps(element, default=str, ensure_ascii=False).encode()

    # Dirt: one defect a delivery, so that the reason is certain.

    def _defect(self, payment: _Payment, reason: str, **overlay: object) -> _Delivery:
        return _Delivery(payment, payment.fields, overlay, reason)

    def _masked_phone(self, payment: _Payment) -> _Delivery:
        phone = payment.fields.phone
        return self._defect(payment, "phone_invalid", passenger_phone=f"{phone[:6]}***{phone[-3:]}")

    def _local_phone(self, payment: _Payment) -> _Delivery:
        return self._defect(payment, "phone_invalid", passenger_phone="0" + payment.fields.phone[4:])

    def _wrong_amount(self, payment: _Payment) -> _Delivery:
        amount = payment.fields.amount
        wrong = (f"{amount / 100:.2f} SLE", None, 0, -amount, amount + 0.5, [amount], "")
        return self._defect(payment, "amount_invalid", amount=self._rng.choice(wrong))

    def _wrong_otp(self, payment: _Payment) -> _Delivery:
        wrong = ("", "12", "98-76-54", "*" * 6, None)
        return self._defect(payment, "otp_invalid", monime_otp=self._rng.choice(wrong))

    def _wrong_rate(self, payment: _Payment) -> _Delivery:
        return self._defect(
            payment, "commission_rate_invalid", commission_rate=self._rng.choice(("5%", 1.5, -0.05))
        )

    def _wrong_transaction_id(self, payment: _Payment) -> _Delivery:
        wrong = (None, "", "   ", payment.transaction_id * 4)
        return self._defect(payment, "transaction_id_invalid", monime_transaction_id=self._rng.choice(wrong))

    def _wrong_company_id(self, payment: _Payment) -> _Delivery:
        return self._defect(payment, "company_id_invalid", company_id=payment.company.name)

    def _wrong_route_id(self, payment: _Payment) -> _Delivery:
        return self._defect(payment, "route_id_invalid", route_id=payment.fields.route.name)

    def _unknown_company(self, payment: _Payment) -> _Delivery:
        unknown = UUID(int=self._rng.getrandbits(128), version=4)
        return self._defect(payment, "company_not_found", company_id=unknown)

    def _suspended_company(self, payment: _Payment) -> _Delivery:
        company = self._rng.choice([each for each in COMPANIES if each.status == "suspended"])
        route = company.routes[0]
        return self._defect(payment, "company_suspended", company_id=company.id, route_id=route.id)

    def _foreign_route(self, payment: _Payment) -> _Delivery:
        foreign = self._rng.choice([route for owner, route in self._routes if owner is not payment.company])
        return self._defect(payment, "route_not_found", route_id=foreign.id)

    def _inactive_route(self, payment: _Payment) -> _Delivery:
        closed = [
            (owner, each) for owner in self._active for each in owner.routes if each.status == "inactive"
        ]
        company, route = self._rng.choice(closed)
        moved = _Payment(company, payment.transaction_id, replace(payment.fields, route=route, code=None))
        return self._defect(moved, "route_inactive")

    def _unknown_code(self, payment: _Payment) -> _Delivery:
        return self._defect(payment, "code_not_found", payment_code=f"NO{self._rng.randrange(10**6):06d}")

    def _foreign_code(self, payment: _Payment) -> _Delivery:
        foreign = [code for code in self._usable if code.spec.company is not payment.company]
        return self._defect(payment, "code_not_found", payment_code=self._rng.choice(foreign).spec.code)

    def _code_of_other_route(self, payment: _Payment) -> _Delivery:
        bound = [code for code in self._usable if code.spec.route and len(code.spec.company.routes) > 1]
        code = self._rng.choice(bound)
        others = [
            each for each in code.spec.company.routes if each.status == "active" and each != code.spec.route
        ]
        fields = replace(payment.fields, route=self._rng.choice(others), code=code)
        moved = _Payment(code.spec.company, payment.transaction_id, fields)
        return self._defect(moved, "code_route_mismatch")

    def _cancelled_code(self, payment: _Payment) -> _Delivery:
        code = self._rng.choice([code for code in self._codes if code.spec.cancelled])
        company = code.spec.company
        route = code.spec.route or company.routes[0]
        moved = _Payment(company, payment.transaction_id, replace(payment.fields, route=route, code=code))
        return self._defect(moved, "code_cancelled")

    def _garbage(self, payment: _Payment) -> _Delivery:
        clean = self._render(self._clean(payment))
        garbage, reason = self._rng.choice(
            (
                (clean[: len(clean) // 2], "not_json"),
                (clean[:-1] + b', "fee": NaN}', "not_json"),
                (b"<html><body><h1>502 Bad Gateway</h1></body></html>", "not_json"),
                (clean[:-1] + b', "note": "caf\xe9"}', "not_utf8"),
            )
        )
        return _Delivery(payment, payment.fields, {}, reason, garbage)
