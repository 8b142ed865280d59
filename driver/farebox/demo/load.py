"""Puts the catalogue and the codes of a rush into a database, and the rush into a file."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from farebox import CatalogOutcome, DataError, Farebox
from farebox.demo.catalogue import COMPANIES, PaymentCode
from farebox.demo.rush import Rush

_CHUNK = 1000

Expected = Counter[tuple[str, str | None]]
"""How many lines must end in which (outcome, reason)."""


def load_catalogue(client: Farebox) -> None:
    """Add the companies and routes, or put them back to what the catalogue says. Raises DataError."""
    companies = [
        {
            "id": str(company.id),
            "name": company.name,
            "monime_account_id": company.monime_account_id,
            "commission_rate": company.commission_rate,
            "status": company.status,
        }
        for company in COMPANIES
    ]
    routes = [
        {
            "id": str(route.id),
            "company_id": str(company.id),
            "name": route.name,
            "origin": route.origin,
            "destination": route.destination,
            "fare": route.fare,
            "status": route.status,
        }
        for company in COMPANIES
        for route in company.routes
    ]
    _accepted(client.upsert_companies, companies)
    _accepted(client.upsert_routes, routes)


def issue_codes(client: Farebox, rush: Rush) -> bool:
    """Issue the codes of the rush and cancel some; whether all are new, so that it never ran here before."""
    usable = [_code(code_id, spec) for code_id, spec in rush.codes if not spec.cancelled]
    cancelled = [_code(code_id, spec) for code_id, spec in rush.codes if spec.cancelled]
    outcomes = _accepted(client.issue_payment_codes, usable)
    # Those that an earlier run cancelled already are refused here, rightly.
    client.issue_payment_codes(cancelled)
    _accepted(client.cancel_payment_codes, cancelled)
    return outcomes == {"created"}


def _code(code_id: UUID, spec: PaymentCode) -> dict[str, Any]:
    return {
        "id": str(code_id),
        "company_id": str(spec.company.id),
        "route_id": str(spec.route.id) if spec.route else None,
        "code": spec.code,
        "total_tickets": spec.total_tickets,
    }


def write_rush(rush: Rush, path: Path) -> Expected:
    """Write the rush to a file that only its owner may read; what its lines must end in."""
    expected: Expected = Counter()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        for line in rush:
            file.write(line.data + b"\n")
            expected[line.outcome, line.reason] += 1
    return expected


def _accepted(
    call: Callable[[Iterable[dict[str, Any]]], Sequence[CatalogOutcome]], elements: Sequence[dict[str, Any]]
) -> set[str]:
    outcomes = [
        outcome
        for start in range(0, len(elements), _CHUNK)
        for outcome in call(elements[start : start + _CHUNK])
    ]
    refused = {outcome.reason for outcome in outcomes if not outcome.ok}
    if refused:
        raise DataError(
            f"the demo's catalogue was refused: {', '.join(sorted(map(str, refused)))}",
            hint="Use another --seed, or a database without these companies.",
        )
    return {outcome.outcome for outcome in outcomes}
