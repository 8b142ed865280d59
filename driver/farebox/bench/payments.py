"""What is sold: companies with a route and a code each, and new payments of them without end."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from farebox import Farebox

FARE: Final = 5000
"""What each ticket costs, in minor units."""

Payment = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Seller:
    """A company, its one route and a payment code of it that never runs out."""

    company: str
    route: str
    code: str


def open_companies(dsn: str, count: int) -> list[Seller]:
    """Put so many companies into the database."""
    sellers = [Seller(str(uuid.uuid4()), str(uuid.uuid4()), f"*715*{n}#") for n in range(count)]
    with Farebox(dsn, timeout=None) as client:
        for start in range(0, count, 1000):
            part = sellers[start : start + 1000]
            client.upsert_companies([{"id": s.company, "name": "Bench"} for s in part])
            client.upsert_routes(
                [
                    {"id": s.route, "company_id": s.company, "name": "A to B", "fare": FARE}
                    | {"origin": "A", "destination": "B"}
                    for s in part
                ]
            )
            client.issue_payment_codes(
                [{"company_id": s.company, "code": s.code, "total_tickets": 2_000_000_000} for s in part]
            )
    return sellers


def payment_of(seller: Seller, *, coded: bool = False) -> Payment:
    """A new payment that becomes a ticket."""
    payment: Payment = {
        "company_id": seller.company,
        "route_id": seller.route,
        "passenger_phone": f"+23276{random.randrange(10**6):06}",
        "monime_transaction_id": f"pay-{random.getrandbits(128):032x}",
        "monime_otp": f"{random.randrange(10**6):06}",
        "amount": FARE,
    }
    if coded:
        payment["payment_code"] = seller.code
    return payment


def new_batches(
    sellers: Sequence[Seller], rows: int, size: int, *, coded: float = 0.0
) -> list[list[Payment]]:
    """New payments of random companies in batches; the share `coded` of them carries the company's code."""
    return [
        [
            payment_of(random.choice(sellers), coded=coded > 0 and random.random() < coded)
            for _ in range(min(size, rows - start))
        ]
        for start in range(0, rows, size)
    ]


def texts(batches: Sequence[Sequence[Payment]]) -> list[str]:
    """Each as the JSON that is sent."""
    return [json.dumps(batch) for batch in batches]
