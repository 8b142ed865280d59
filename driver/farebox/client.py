"""The asynchronous client."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import UUID

import psycopg
from psycopg import AsyncRawCursor
from psycopg.rows import dict_row
from pydantic import TypeAdapter

from farebox import calls
from farebox.calls import Call
from farebox.encoding import encode_many, encode_one, to_parameter
from farebox.errors import FareboxError, map_error
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

R = TypeVar("R")


class AsyncFarebox:
    """The client for coroutines. Use as `async with AsyncFarebox(dsn) as farebox: …`; share it between tasks."""

    def __init__(self, dsn: str, *, strict: bool = True) -> None:
        self._dsn = dsn
        self._strict = strict
        self._connection: psycopg.AsyncConnection[dict[str, Any]] | None = None
        self._lock = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; calling it again does nothing."""
        if self._connection is not None:
            await self._connection.close()

    async def create_ticket(
        self, ticket: TicketRequest | Mapping[str, Any], *, strict: bool | None = None
    ) -> TicketOutcome:
        """Turn one payment into a ticket, exactly once however often it is called."""
        payload = encode_one(TicketRequest, ticket, strict=self._strict if strict is None else strict)
        return (await self._rows(calls.CREATE_TICKET, payload))[0]

    async def create_tickets(
        self,
        batch: Iterable[TicketRequest | Mapping[str, Any]],
        *,
        strict: bool | None = None,
        chunk_size: int = 500,
    ) -> CreateResult:
        """Turn any number of payments into tickets; outcomes come in the order of the input."""
        values = list(batch)
        strict = self._strict if strict is None else strict
        outcomes: list[TicketOutcome] = []
        for start in range(0, len(values), chunk_size):
            payload = encode_many(
                TicketRequest, values[start : start + chunk_size], strict=strict, first=start + 1
            )
            for row in await self._rows(calls.CREATE_TICKETS, payload):
                outcomes.append(row.model_copy(update={"ordinal": row.ordinal + start}))
        return CreateResult(tuple(outcomes))

    async def record_missing_transactions(self, limit: int = 1000) -> int:
        """Write up to `limit` missing money records; how many were written."""
        return (await self._rows(calls.RECORD_MISSING_TRANSACTIONS, limit))[0]

    async def apply_unapplied_payments(
        self, limit: int = 1000, reason: str | None = None
    ) -> list[TicketOutcome]:
        """Try up to `limit` unapplied payments again, those with `reason` only if one is given."""
        return await self._rows(calls.APPLY_UNAPPLIED_PAYMENTS, limit, reason)

    async def upsert_companies(
        self, batch: Iterable[CompanyRequest | Mapping[str, Any]], *, strict: bool | None = None
    ) -> list[CatalogOutcome]:
        """Add or change companies."""
        payload = encode_many(CompanyRequest, list(batch), strict=self._strict if strict is None else strict)
        return await self._rows(calls.UPSERT_COMPANIES, payload)

    async def upsert_routes(
        self, batch: Iterable[RouteRequest | Mapping[str, Any]], *, strict: bool | None = None
    ) -> list[CatalogOutcome]:
        """Add or change routes."""
        payload = encode_many(RouteRequest, list(batch), strict=self._strict if strict is None else strict)
        return await self._rows(calls.UPSERT_ROUTES, payload)

    async def issue_payment_codes(
        self, batch: Iterable[PaymentCodeRequest | Mapping[str, Any]], *, strict: bool | None = None
    ) -> list[CatalogOutcome]:
        """Issue payment codes, or change their limit or end."""
        payload = encode_many(
            PaymentCodeRequest, list(batch), strict=self._strict if strict is None else strict
        )
        return await self._rows(calls.ISSUE_PAYMENT_CODES, payload)

    async def cancel_payment_codes(
        self, batch: Iterable[PaymentCodeKey | Mapping[str, Any]], *, strict: bool | None = None
    ) -> list[CatalogOutcome]:
        """Cancel payment codes."""
        payload = encode_many(PaymentCodeKey, list(batch), strict=self._strict if strict is None else strict)
        return await self._rows(calls.CANCEL_PAYMENT_CODES, payload)

    async def expire_payment_codes(self, limit: int = 1000) -> int:
        """Expire up to `limit` codes whose time is over; how many were."""
        return (await self._rows(calls.EXPIRE_PAYMENT_CODES, limit))[0]

    async def get_ticket(self, ticket_id: UUID, company_id: UUID | None = None) -> Ticket | None:
        """One ticket, or None."""
        rows = await self._rows(calls.GET_TICKET, ticket_id, company_id)
        return rows[0] if rows else None

    async def tickets_by_phone(
        self,
        company_id: UUID,
        phone: str,
        limit: int = 50,
        before_created_at: datetime | None = None,
        before_id: UUID | None = None,
    ) -> list[Ticket]:
        """A passenger's tickets with one company, newest first."""
        return await self._rows(
            calls.TICKETS_BY_PHONE, company_id, phone, limit, before_created_at, before_id
        )

    async def pending_tickets(
        self,
        company_id: UUID,
        limit: int = 100,
        after_created_at: datetime | None = None,
        after_id: UUID | None = None,
    ) -> list[Ticket]:
        """Tickets not yet used, oldest first."""
        return await self._rows(calls.PENDING_TICKETS, company_id, limit, after_created_at, after_id)

    async def company_summary(
        self, company_id: UUID, from_: datetime | None = None, to: datetime | None = None
    ) -> CompanySummary | None:
        """Counts and sums over [from_, to), or None for an unknown company."""
        rows = await self._rows(calls.COMPANY_SUMMARY, company_id, from_, to)
        return rows[0] if rows else None

    async def verify(self) -> list[Violation]:
        """Every broken invariant of the database; none when all is well."""
        return await self._rows(calls.VERIFY)

    async def list_companies(self, limit: int = 100, after_id: UUID | None = None) -> list[Company]:
        """Companies by id."""
        return await self._rows(calls.LIST_COMPANIES, limit, after_id)

    async def list_routes(
        self, company_id: UUID, limit: int = 100, after_id: UUID | None = None
    ) -> list[Route]:
        """A company's routes by id."""
        return await self._rows(calls.LIST_ROUTES, company_id, limit, after_id)

    async def list_payment_codes(
        self, company_id: UUID, limit: int = 100, after_id: UUID | None = None
    ) -> list[PaymentCode]:
        """A company's payment codes by id."""
        return await self._rows(calls.LIST_PAYMENT_CODES, company_id, limit, after_id)

    async def list_unapplied_payments(
        self,
        limit: int = 100,
        reason: str | None = None,
        after_last_seen_at: datetime | None = None,
        after_transaction_id: str | None = None,
        include_resolved: bool = False,
    ) -> list[UnappliedPayment]:
        """Unapplied payments, oldest last_seen_at first."""
        return await self._rows(
            calls.LIST_UNAPPLIED_PAYMENTS,
            limit,
            reason,
            after_last_seen_at,
            after_transaction_id,
            include_resolved,
        )

    async def _rows(self, call: Call[R], *arguments: object) -> list[R]:
        parameters = [to_parameter(argument) for argument in arguments]
        failure: FareboxError
        try:
            async with self._lock:
                if self._connection is None or self._connection.closed:
                    self._connection = await psycopg.AsyncConnection.connect(
                        self._dsn, autocommit=True, row_factory=dict_row, cursor_factory=AsyncRawCursor
                    )
                cursor = await self._connection.execute(
                    call.sql, [None if p is None else p.decode() for p in parameters]
                )
                rows = await cursor.fetchall()
        except psycopg.Error as error:
            failure = map_error(error)
        else:
            if call.row is int:
                return [next(iter(row.values())) for row in rows]
            return TypeAdapter(list[call.row]).validate_python(rows)  # type: ignore[name-defined]
        raise failure
