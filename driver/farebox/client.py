"""The client for coroutines; `farebox.sync` puts the one for threads in front of it."""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Coroutine,
    Iterable,
)
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Self, TypeVar, Unpack
from uuid import UUID

from farebox import _fork, calls
from farebox._async_catalog import AsyncCatalog
from farebox._async_queue import AsyncQueue
from farebox._bulk import Chunk, Chunker, TicketInput, Window
from farebox._core import Core, Targets
from farebox._queue import Part, Patience
from farebox._ticket_call import TicketCall, TicketCoroutine, coroutine_function
from farebox.calls import Call
from farebox.encoding import check_one, to_parameter
from farebox.errors import ClosedError, UsageError
from farebox.models import (
    CompanySummary,
    CreateResult,
    Ticket,
    TicketOutcome,
    TicketRequest,
    UnappliedPayment,
    Violation,
)
from farebox.options import CONSISTENCIES, Consistency, Options, Settings

R = TypeVar("R")

DEFAULT_CHUNK: Final = 500
_CLOSE_GRACE_SECONDS: Final = 5.0
_OTHER_LOOP: Final = "the client is in use on another event loop"


class AsyncFarebox(AsyncQueue, AsyncCatalog):
    """The client for coroutines.

    Use it as `async with AsyncFarebox(dsn, ...) as farebox:` and share it between tasks. Options and
    defaults are those of `farebox.options.Settings`. It connects when first used, and belongs to the
    event loop that uses it.

    Every call raises, besides what it names itself, `TransientError` when all attempts failed,
    `DeadlineExceededError` when its time was up, `ClosedError`, `ConfigurationError`,
    `PermissionDeniedError` and `NotMigratedError`. Creating and queueing is idempotent: after any error
    the same call again is safe.
    """

    def __init__(self, dsn: str, **options: Unpack[Options]) -> None:
        try:
            self._settings = Settings(**options)
        except TypeError as error:
            raise UsageError(str(error).replace("Settings.__init__", type(self).__name__)) from None
        self._patience = self._settings.patience
        self._targets = Targets.of(dsn, self._settings)
        self._core: Core | None = None
        self._closed = False
        _fork.watch(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._targets.primary)!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self, grace: float = _CLOSE_GRACE_SECONDS) -> None:
        """Fail the calls not sent yet, wait up to `grace` seconds for those that were, disconnect."""
        core = self._core
        if core is not None and core.loop is not asyncio.get_running_loop() and not core.loop.is_closed():
            raise UsageError(_OTHER_LOOP, hint="close it where it was used")
        self._closed, self._core = True, None
        if core is not None:
            await core.close(grace)

    # -- creating tickets ---------------------------------------------------------------------------------

    @coroutine_function
    def create_ticket(
        self, ticket: TicketInput, *, strict: bool | None = None, timeout: float | None = None
    ) -> Coroutine[Any, Any, TicketOutcome]:
        """Turn one payment into a ticket, exactly once however often it is called.

        Calls made at the same time share batches. Cancelling one leaves the others alone; whether its
        own ticket was made, the same call again tells. `timeout` counts seconds, in all. Raises
        `InvalidRequestError` for a malformed request when strict (else the answer is `rejected`),
        `BusyError`.
        """
        patience = self._patience if timeout is None else replace(self._patience, timeout=timeout)
        return self._create(ticket, strict, patience)

    @coroutine_function
    def create_ticket_with_retry(
        self, ticket: TicketInput, *, attempts: int = 10, timeout: float = 60.0, strict: bool | None = None
    ) -> Coroutine[Any, Any, TicketOutcome]:
        """`create_ticket` with more patience: for callers that rather wait out a server's restart."""
        patience = replace(self._patience, timeout=timeout, attempts=attempts)
        return self._create(ticket, strict, patience)

    async def create_tickets(
        self,
        batch: Iterable[TicketInput],
        *,
        strict: bool | None = None,
        chunk_size: int = DEFAULT_CHUNK,
        ordered: bool = False,
    ) -> CreateResult:
        """Turn any number of payments into tickets; outcomes come in the order of the input.

        The list goes out in chunks of 1 to 10,000, each a transaction, several at once. Within a chunk
        the meaning is sequential; over the whole list it is when `ordered`, which sends one chunk at a
        time. When strict, the whole list is validated before anything is sent. Raises
        `InvalidRequestError`; after another error some chunks may stand, and the same call again is
        safe.
        """
        tickets = list(batch)
        chunker = Chunker(chunk_size, strict=self._is_strict(strict))
        for _ in chunker.check(tickets):
            await asyncio.sleep(0)  # A million validations must not stop the event loop.
        outcomes: list[TicketOutcome] = []
        async with aclosing(self._create_chunks(chunker.cut_stream(tickets), ordered)) as answers:
            async for answered in answers:
                outcomes += answered
        return CreateResult(tuple(outcomes))

    async def stream_tickets(
        self,
        tickets: Iterable[TicketInput] | AsyncIterable[TicketInput],
        *,
        strict: bool | None = None,
        chunk_size: int = DEFAULT_CHUNK,
        ordered: bool = False,
    ) -> AsyncGenerator[TicketOutcome, None]:
        """`create_tickets` for millions: takes from `tickets` as it goes, in constant memory.

        Yields one outcome for each input, in order. An error (also from `tickets` itself, or
        `InvalidRequestError`) ends the stream; what was yielded stands, of what was sent and not yielded
        the same call again tells.
        """
        chunks = Chunker(chunk_size, strict=self._is_strict(strict)).cut_stream(tickets)
        async with aclosing(self._create_chunks(chunks, ordered)) as answers:
            async for answered in answers:
                for outcome in answered:
                    yield outcome

    async def record_missing_transactions(self, limit: int = 1000) -> int:
        """Write up to `limit` missing money records; how many were written."""
        return (await self._run(calls.RECORD_MISSING_TRANSACTIONS, limit))[0]

    async def apply_unapplied_payments(
        self, limit: int = 1000, reason: str | None = None
    ) -> list[TicketOutcome]:
        """Try up to `limit` unapplied payments again, those with `reason` only if one is given."""
        return await self._run(calls.APPLY_UNAPPLIED_PAYMENTS, limit, reason)

    # -- reading ------------------------------------------------------------------------------------------

    async def get_ticket(
        self, ticket_id: UUID, company_id: UUID | None = None, *, consistency: Consistency | None = None
    ) -> Ticket | None:
        """One ticket (of that company, if one is named), or None.

        `consistency`, of all reads: `replica` takes what `read_dsn` has, `own_writes` waits there for
        what this client has written (and goes to the primary when that takes long), `primary` asks the
        primary.
        """
        rows = await self._read(calls.GET_TICKET, consistency, ticket_id, company_id)
        return rows[0] if rows else None

    async def tickets_by_phone(
        self,
        company_id: UUID,
        phone: str,
        limit: int = 50,
        before_created_at: datetime | None = None,
        before_id: UUID | None = None,
        *,
        consistency: Consistency | None = None,
    ) -> list[Ticket]:
        """A passenger's tickets with one company, newest first; go on with the last one's time and id."""
        return await self._read(
            calls.TICKETS_BY_PHONE, consistency, company_id, phone, limit, before_created_at, before_id
        )

    async def pending_tickets(
        self,
        company_id: UUID,
        limit: int = 100,
        after_created_at: datetime | None = None,
        after_id: UUID | None = None,
        *,
        consistency: Consistency | None = None,
    ) -> list[Ticket]:
        """Tickets not yet used, oldest first; go on with the last one's time and id."""
        return await self._read(
            calls.PENDING_TICKETS, consistency, company_id, limit, after_created_at, after_id
        )

    async def company_summary(
        self,
        company_id: UUID,
        from_: datetime | None = None,
        to: datetime | None = None,
        *,
        consistency: Consistency | None = None,
    ) -> CompanySummary | None:
        """Counts and sums (minor units) over the tickets of [from_, to), or None for an unknown company."""
        rows = await self._read(calls.COMPANY_SUMMARY, consistency, company_id, from_, to)
        return rows[0] if rows else None

    async def list_unapplied_payments(
        self,
        limit: int = 100,
        reason: str | None = None,
        after_last_seen_at: datetime | None = None,
        after_transaction_id: str | None = None,
        include_resolved: bool = False,
    ) -> list[UnappliedPayment]:
        """Unapplied payments, oldest `last_seen_at` first; go on with the last one's time and id."""
        return await self._run(
            calls.LIST_UNAPPLIED_PAYMENTS,
            limit,
            reason,
            after_last_seen_at,
            after_transaction_id,
            include_resolved,
        )

    async def verify(self) -> list[Violation]:
        """Every broken invariant of the whole database; none when all is well."""
        return await self._run(calls.VERIFY)

    # -- inside -------------------------------------------------------------------------------------------

    def forget(self) -> object:
        """For a forked child: let go of what belongs to the parent."""
        core, self._core = self._core, None
        return core

    def _live(self) -> Core:
        if self._closed:
            raise ClosedError("the client is closed")
        loop = asyncio.get_running_loop()
        core = self._core
        if core is not None and core.loop is not loop and core.loop.is_closed():
            core.abandon()
            core = None
        if core is None:
            core = self._core = Core(self._targets, self._settings)
        elif core.loop is not loop:
            raise UsageError(_OTHER_LOOP, hint="one client for each loop, or `Farebox`")
        return core

    def _is_strict(self, strict: bool | None) -> bool:
        """What holds for a call: its own choice, or the client's."""
        return self._settings.strict if strict is None else strict

    def _width(self, ordered: bool) -> int:
        """How many chunks of a list may be under way at once."""
        if ordered:
            return 1
        # Twice what the pipelines hold: the oldest is waited for, and the others must not run dry meanwhile.
        # But a list alone must never find the queue full.
        settings = self._settings
        return min(2 * settings.connections * settings.pipeline, settings.max_waiting)

    def _begin(self, call: TicketCall) -> None:
        """Somebody waits for a call of `create_ticket`."""
        if self._is_strict(call.strict):
            check_one(TicketRequest, call.ticket)
        scheduler = self._live().primary
        scheduler.enter(call, scheduler.tickets, call.patience)

    def _create(
        self, ticket: TicketInput, strict: bool | None, patience: Patience
    ) -> Coroutine[Any, Any, TicketOutcome]:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return self._create_there(ticket, strict, patience)
        return TicketCoroutine(loop, self, ticket, strict=strict, patience=patience)

    async def _create_there(
        self, ticket: TicketInput, strict: bool | None, patience: Patience
    ) -> TicketOutcome:
        """For a call that is made before there is an event loop to run it, as `asyncio.run` has it."""
        call = TicketCoroutine(asyncio.get_running_loop(), self, ticket, strict=strict, patience=patience)
        outcome: TicketOutcome = await call
        return outcome

    async def _create_chunk(self, chunk: Chunk) -> list[TicketOutcome]:
        """Send one chunk of a list."""
        part = Part(chunk.elements, chunk.first)
        return await self._live().primary.run(
            calls.CREATE_TICKETS, (chunk.payload,), self._patience, part=part
        )

    async def _create_chunks(
        self, chunks: AsyncIterator[Chunk], ordered: bool
    ) -> AsyncGenerator[list[TicketOutcome], None]:
        window = Window[asyncio.Task[list[TicketOutcome]]](self._width(ordered))
        try:
            async for chunk in chunks:
                for oldest in window.push(asyncio.create_task(self._create_chunk(chunk))):
                    yield await oldest
            for oldest in window.drain():
                yield await oldest
        finally:
            rest = list(window.drain())
            for task in rest:
                task.cancel()
            await asyncio.gather(*rest, return_exceptions=True)

    async def _run(self, call: Call[R], *arguments: object) -> list[R]:
        return await self._live().primary.run(
            call, [to_parameter(argument) for argument in arguments], self._patience
        )

    async def _read(self, call: Call[R], consistency: Consistency | None, *arguments: object) -> list[R]:
        if consistency is None:
            consistency = self._settings.consistency
        elif consistency not in CONSISTENCIES:
            raise UsageError(f"consistency must be one of {', '.join(CONSISTENCIES)}")
        return await self._live().reader.run(
            call, [to_parameter(argument) for argument in arguments], consistency
        )
