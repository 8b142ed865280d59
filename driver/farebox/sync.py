"""The client for threads: a front of the asynchronous one, which runs on an event loop of its own in a thread.

Chosen over two shells around an I/O-free core because sharing batches needs a scheduler anyway, and one scheduler that
serves both coroutines and threads leaves no rule to write twice: every method below only hands its arguments over.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterable, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import UUID

from farebox.client import AsyncFarebox
from farebox.models import (
    CatalogOutcome,
    Company,
    CompanyRequest,
    CompanySummary,
    CreateResult,
    PaymentCode,
    PaymentCodeKey,
    PaymentCodeRequest,
    Route,
    RouteRequest,
    Ticket,
    TicketOutcome,
    TicketRequest,
    UnappliedPayment,
    Violation,
)

T = TypeVar("T")


class Farebox:
    """The client for threads. Use as `with Farebox(dsn) as farebox: …`; share it between threads."""

    def __init__(self, dsn: str, *, strict: bool = True) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="farebox", daemon=True)
        self._thread.start()
        self._front = AsyncFarebox(dsn, strict=strict)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; calling it again does nothing."""
        if self._loop.is_closed():
            return
        self._run(self._front.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, call: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(call, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def create_ticket(
        self, ticket: TicketRequest | Mapping[str, Any], *, strict: bool | None = None
    ) -> TicketOutcome:
        """Turn one payment into a ticket, exactly once however often it is called."""
        return self._run(self._front.create_ticket(ticket, strict=strict))

    def create_tickets(
        self,
        batch: Iterable[TicketRequest | Mapping[str, Any]],
        *,
        strict: bool | None = None,
        chunk_size: int = 500,
    ) -> CreateResult:
        """Turn any number of payments into tickets; outcomes come in the order of the input."""
        return self._run(self._front.create_tickets(batch, strict=strict, chunk_size=chunk_size))

    def record_missing_transactions(self, limit: int = 1000) -> int:
        """Write up to `limit` missing money records; how many were written."""
        return self._run(self._front.record_missing_transactions(limit))

    def apply_unapplied_payments(self, limit: int = 1000, reason: str | None = None) -> list[TicketOutcome]:
        """Try up to `limit` unapplied payments again, those with `reason` only if one is given."""
        return self._run(self._front.apply_unapplied_payments(limit, reason))

    def upsert_companies(
        self, batch: Iterable[CompanyRequest | Mapping[str, Any]], *, strict: bool | None = None
    ) -> list[CatalogOutcome]:
        """Add or change companies."""
        return self._run(self._front.upsert_companies(batch, strict=strict))

    def upsert_routes(
        self, batch: Iterable[RouteRequest | Mapping[str, Any]], *, strict: bool | None = None
    ) -> list[CatalogOutcome]:
        """Add or change routes."""
        return self._run(self._front.upsert_routes(batch, strict=strict))

    def issue_payment_codes(
        self, batch: Iterable[PaymentCodeRequest | Mapping[str, Any]], *, strict: bool | None = None
    ) -> list[CatalogOutcome]:
        """Issue payment codes, or change their limit or end."""
        return self._run(self._front.issue_payment_codes(batch, strict=strict))

    def cancel_payment_codes(
        self, batch: Iterable[PaymentCodeKey | Mapping[str, Any]], *, strict: bool | None = None
    ) -> list[CatalogOutcome]:
        """Cancel payment codes."""
        return self._run(self._front.cancel_payment_codes(batch, strict=strict))

    def expire_payment_codes(self, limit: int = 1000) -> int:
        """Expire up to `limit` codes whose time is over; how many were."""
        return self._run(self._front.expire_payment_codes(limit))

    def get_ticket(self, ticket_id: UUID, company_id: UUID | None = None) -> Ticket | None:
        """One ticket, or None."""
        return self._run(self._front.get_ticket(ticket_id, company_id))

    def tickets_by_phone(
        self,
        company_id: UUID,
        phone: str,
        limit: int = 50,
        before_created_at: datetime | None = None,
        before_id: UUID | None = None,
    ) -> list[Ticket]:
        """A passenger's tickets with one company, newest first."""
        return self._run(self._front.tickets_by_phone(company_id, phone, limit, before_created_at, before_id))

    def pending_tickets(
        self,
        company_id: UUID,
        limit: int = 100,
        after_created_at: datetime | None = None,
        after_id: UUID | None = None,
    ) -> list[Ticket]:
        """Tickets not yet used, oldest first."""
        return self._run(self._front.pending_tickets(company_id, limit, after_created_at, after_id))

    def company_summary(
        self, company_id: UUID, from_: datetime | None = None, to: datetime | None = None
    ) -> CompanySummary | None:
        """Counts and sums over [from_, to), or None for an unknown company."""
        return self._run(self._front.company_summary(company_id, from_, to))

    def verify(self) -> list[Violation]:
        """Every broken invariant of the database; none when all is well."""
        return self._run(self._front.verify())

    def list_companies(self, limit: int = 100, after_id: UUID | None = None) -> list[Company]:
        """Companies by id."""
        return self._run(self._front.list_companies(limit, after_id))

    def list_routes(self, company_id: UUID, limit: int = 100, after_id: UUID | None = None) -> list[Route]:
        """A company's routes by id."""
        return self._run(self._front.list_routes(company_id, limit, after_id))

    def list_payment_codes(
        self, company_id: UUID, limit: int = 100, after_id: UUID | None = None
    ) -> list[PaymentCode]:
        """A company's payment codes by id."""
        return self._run(self._front.list_payment_codes(company_id, limit, after_id))

    def list_unapplied_payments(
        self,
        limit: int = 100,
        reason: str | None = None,
        after_last_seen_at: datetime | None = None,
        after_transaction_id: str | None = None,
        include_resolved: bool = False,
    ) -> list[UnappliedPayment]:
        """Unapplied payments, oldest last_seen_at first."""
        return self._run(
            self._front.list_unapplied_payments(
                limit, reason, after_last_seen_at, after_transaction_id, include_resolved
            )
        )
