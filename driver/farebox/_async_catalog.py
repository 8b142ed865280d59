"""The catalog's part of the client for coroutines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar
from uuid import UUID

from farebox import calls
from farebox._async_part import AsyncPart
from farebox._ids import uuid_v7
from farebox._queue import Part
from farebox.calls import Call
from farebox.encoding import encode_many
from farebox.models import (
    CatalogOutcome,
    Company,
    CompanyRequest,
    PaymentCode,
    PaymentCodeKey,
    PaymentCodeRequest,
    Request,
    Route,
    RouteRequest,
)

R = TypeVar("R")


class AsyncCatalog(AsyncPart):
    """Methods of `AsyncFarebox`."""

    async def upsert_companies(
        self, batch: Iterable[CompanyRequest | Mapping[str, Any]], *, strict: bool | None = None
    ) -> list[CatalogOutcome]:
        """Add companies (no id) or change them (keys left out keep what is stored); at most 10,000."""
        return await self._change(calls.UPSERT_COMPANIES, CompanyRequest, batch, strict)

    async def upsert_routes(
        self, batch: Iterable[RouteRequest | Mapping[str, Any]], *, strict: bool | None = None
    ) -> list[CatalogOutcome]:
        """Add or change routes, as with companies."""
        return await self._change(calls.UPSERT_ROUTES, RouteRequest, batch, strict)

    async def issue_payment_codes(
        self, batch: Iterable[PaymentCodeRequest | Mapping[str, Any]], *, strict: bool | None = None
    ) -> list[CatalogOutcome]:
        """Issue payment codes, or change the limit or the end of those that exist."""
        return await self._change(calls.ISSUE_PAYMENT_CODES, PaymentCodeRequest, batch, strict)

    async def cancel_payment_codes(
        self, batch: Iterable[PaymentCodeKey | Mapping[str, Any]], *, strict: bool | None = None
    ) -> list[CatalogOutcome]:
        """Cancel payment codes."""
        return await self._change(calls.CANCEL_PAYMENT_CODES, PaymentCodeKey, batch, strict)

    async def expire_payment_codes(self, limit: int = 1000) -> int:
        """Expire up to `limit` codes whose time is over; how many were."""
        core = self._live()
        try:
            return (await self._run(calls.EXPIRE_PAYMENT_CODES, limit))[0]
        finally:
            core.catalog.forget("*")

    async def get_company(self, company_id: UUID, *, fresh: bool = False) -> Company | None:
        """One company, cached; `fresh` asks the database."""
        return await self._look_up(calls.GET_COMPANY, (company_id,), fresh)

    async def get_route(self, company_id: UUID, route_id: UUID, *, fresh: bool = False) -> Route | None:
        """One route of that company, cached; `fresh` asks the database."""
        return await self._look_up(calls.GET_ROUTE, (company_id, route_id), fresh)

    async def get_payment_code(
        self, company_id: UUID, code: str, *, fresh: bool = False
    ) -> PaymentCode | None:
        """One payment code of that company, cached; `fresh` asks the database.

        `used_tickets` changes with every sale and is announced to nobody: it may be as old as
        `catalog_ttl`.
        """
        return await self._look_up(calls.GET_PAYMENT_CODE, (company_id, code), fresh)

    async def list_companies(self, limit: int = 100, after_id: UUID | None = None) -> list[Company]:
        """Companies by id, from the one behind `after_id`."""
        return await self._run(calls.LIST_COMPANIES, limit, after_id)

    async def list_routes(
        self, company_id: UUID, limit: int = 100, after_id: UUID | None = None
    ) -> list[Route]:
        """A company's routes by id, from the one behind `after_id`."""
        return await self._run(calls.LIST_ROUTES, company_id, limit, after_id)

    async def list_payment_codes(
        self, company_id: UUID, limit: int = 100, after_id: UUID | None = None
    ) -> list[PaymentCode]:
        """A company's payment codes by id, from the one behind `after_id`."""
        return await self._run(calls.LIST_PAYMENT_CODES, company_id, limit, after_id)

    # -- inside -------------------------------------------------------------------------------------------

    async def _change(
        self,
        call: Call[CatalogOutcome],
        model: type[Request],
        batch: Iterable[Request | Mapping[str, Any]],
        strict: bool | None,
    ) -> list[CatalogOutcome]:
        given = list(batch)
        elements = list(map(_with_id, given)) if model in (CompanyRequest, RouteRequest) else given
        payload = encode_many(model, elements, strict=self._is_strict(strict))
        core = self._live()
        try:
            outcomes = await core.primary.run(call, (payload,), self._patience, part=Part(len(elements)))
        finally:
            core.catalog.forget("*")  # Also after an error: it may have been done all the same.
        for number, outcome in enumerate(outcomes):
            if not outcome.ok and elements[number] is not given[number]:
                outcomes[number] = outcome.model_copy(update={"id": None})  # ours: nobody has it
        return outcomes

    async def _look_up(self, call: Call[R], arguments: Sequence[UUID | str], fresh: bool) -> R | None:
        core = self._live()

        async def fetch() -> R | None:
            rows = await self._run(call, *arguments)
            return rows[0] if rows else None

        key = (_as_announced(arguments[0]), call.function, *map(str, arguments[1:]))
        return await core.catalog.look_up(key, fetch, fresh=fresh)


def _as_announced(company_id: UUID | str) -> str:
    """A company's id as notifications spell it: nothing else would be forgotten with them."""
    try:
        return str(company_id if isinstance(company_id, UUID) else UUID(company_id))
    except ValueError:
        return str(company_id)


def _with_id(element: Request | Mapping[str, Any]) -> Request | Mapping[str, Any]:
    """With an id, if it has none: a second try must find what the first one added, not add it again."""
    if isinstance(element, CompanyRequest | RouteRequest):
        return element if element.id is not None else element.model_copy(update={"id": uuid_v7()})
    if isinstance(element, Mapping) and element.get("id") is None:
        return {**element, "id": uuid_v7()}
    return element
