"""The client for threads: a front of the one for coroutines, run by an event loop in a thread of its own.

Chosen over two shells around an I/O-free core because sharing batches needs a scheduler anyway: with one
scheduler that serves coroutines and threads alike no rule is written twice, threads share batches too,
and every method below only hands its arguments over.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Self, TypeVar, Unpack
from uuid import UUID

from farebox import _fork
from farebox._bulk import Chunker, TicketInput, Window
from farebox._sync_queue import SyncQueue
from farebox.client import DEFAULT_CHUNK, AsyncFarebox
from farebox.errors import ClosedError, UsageError
from farebox.events import log
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
    UnappliedPayment,
    Violation,
)
from farebox.options import Consistency, Options

T = TypeVar("T")

_LAST_TURNS_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class _Engine:
    """An event loop in a thread."""

    loop: asyncio.AbstractEventLoop
    thread: threading.Thread

    @classmethod
    def start(cls) -> _Engine:
        loop = asyncio.SelectorEventLoop()
        thread = threading.Thread(target=_run_loop, args=(loop,), name="farebox", daemon=True)
        thread.start()
        return cls(loop, thread)

    def stop(self, front: AsyncFarebox, grace: float) -> None:
        """Have the client close and the thread end, soon; never blocks, so that a finaliser may call it."""
        if not self.loop.is_closed():
            asyncio.run_coroutine_threadsafe(self._close(front, grace), self.loop)

    async def _close(self, front: AsyncFarebox, grace: float) -> None:
        try:
            await front.close(grace)
            rest = asyncio.all_tasks() - {asyncio.current_task()}
            if rest:
                # Calls have their answers by now, and only need a turn of the loop to tell their threads.
                await asyncio.wait(rest, timeout=_LAST_TURNS_SECONDS)
            for task in rest:
                task.cancel()
            await asyncio.gather(*rest, return_exceptions=True)
        finally:
            self.loop.stop()


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    stopped = False
    while not stopped:
        try:
            loop.run_forever()
            stopped = True
        except BaseException:
            # What would end a program, such as `sys.exit()` in an event hook, would end a thread here, and
            # nobody would tell those who wait.
            log.exception("the event hook would have ended the client's thread")
    loop.close()


class Farebox(SyncQueue):
    """The client for threads: the methods, options and errors of `AsyncFarebox`.

    Use it as `with Farebox(dsn, ...) as farebox:` and share it between threads. After a fork the child
    makes its own connections. Not to be called from inside a coroutine, which it would block.
    """

    def __init__(self, dsn: str, **options: Unpack[Options]) -> None:
        self._front = AsyncFarebox(dsn, **options)
        self._engine: _Engine | None = None
        self._finalizer: weakref.finalize[[AsyncFarebox, float], Farebox] | None = None
        self._lock = threading.Lock()
        self._closed = False
        _fork.watch(self)

    def __repr__(self) -> str:
        return repr(self._front).removeprefix("Async")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self, grace: float = 5.0) -> None:
        """Fail the calls not sent yet, wait up to `grace` seconds for those that were, disconnect."""
        self._be_elsewhere()
        with self._lock:
            self._closed = True
            engine, self._engine = self._engine, None
        if engine is not None:
            engine.stop(self._front, grace)
            engine.thread.join()
        if self._finalizer is not None:
            self._finalizer.detach()

    # -- creating tickets ---------------------------------------------------------------------------------

    def create_ticket(
        self, ticket: TicketInput, *, strict: bool | None = None, timeout: float | None = None
    ) -> TicketOutcome:
        """Turn one payment into a ticket, exactly once however often it is called.

        Calls made at the same time share batches. Cancelling one leaves the others alone; whether its
        own ticket was made, the same call again tells. `timeout` counts seconds, in all. Raises
        `InvalidRequestError` for a malformed request when strict (else the answer is `rejected`),
        `BusyError`.
        """
        return self._run(self._create(self._front.create_ticket, ticket, strict=strict, timeout=timeout))

    def create_ticket_with_retry(
        self, ticket: TicketInput, *, attempts: int = 10, timeout: float = 60.0, strict: bool | None = None
    ) -> TicketOutcome:
        """`create_ticket` with more patience: for callers that rather wait out a server's restart."""
        return self._run(
            self._create(
                self._front.create_ticket_with_retry,
                ticket,
                attempts=attempts,
                timeout=timeout,
                strict=strict,
            )
        )

    def create_tickets(
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
        return self._run(
            self._front.create_tickets(list(batch), strict=strict, chunk_size=chunk_size, ordered=ordered)
        )

    def stream_tickets(
        self,
        tickets: Iterable[TicketInput],
        *,
        strict: bool | None = None,
        chunk_size: int = DEFAULT_CHUNK,
        ordered: bool = False,
    ) -> Generator[TicketOutcome, None, None]:
        """`create_tickets` for millions: takes from `tickets` as it goes, in constant memory.

        Yields one outcome for each input, in order. An error (also from `tickets` itself, or
        `InvalidRequestError`) ends the stream; what was yielded stands, of what was sent and not yielded
        the same call again tells.
        """
        front = self._front
        window = Window[Future[list[TicketOutcome]]](front._width(ordered))  # pyright: ignore[reportPrivateUsage]
        checked, create = front._is_strict(strict), front._create_chunk  # pyright: ignore[reportPrivateUsage]
        try:
            for chunk in Chunker(chunk_size, strict=checked).cut(tickets):
                for oldest in window.push(self._submit(create(chunk))):
                    yield from oldest.result()
            for oldest in window.drain():
                yield from oldest.result()
        finally:
            for rest in window.drain():
                rest.cancel()

    def record_missing_transactions(self, limit: int = 1000) -> int:
        """Write up to `limit` missing money records; how many were written."""
        return self._run(self._front.record_missing_transactions(limit))

    def apply_unapplied_payments(self, limit: int = 1000, reason: str | None = None) -> list[TicketOutcome]:
        """Try up to `limit` unapplied payments again, those with `reason` only if one is given."""
        return self._run(self._front.apply_unapplied_payments(limit, reason))

    # -- the catalog --------------------------------------------------------------------------------------

    def upsert_companies(
        self, batch: Iterable[CompanyRequest | Mapping[str, Any]], *, strict: bool | None = None
    ) -> list[CatalogOutcome]:
        """Add companies (no id) or change them (keys left out keep what is stored); at most 10,000."""
        return self._run(self._front.upsert_companies(list(batch), strict=strict))

    def upsert_routes(
        self, batch: Iterable[RouteRequest | Mapping[str, Any]], *, strict: bool | None = None
    ) -> list[CatalogOutcome]:
        """Add or change routes, as with companies."""
        return self._run(self._front.upsert_routes(list(batch), strict=strict))

    def issue_payment_codes(
        self, batch: Iterable[PaymentCodeRequest | Mapping[str, Any]], *, strict: bool | None = None
    ) -> list[CatalogOutcome]:
        """Issue payment codes, or change the limit or the end of those that exist."""
        return self._run(self._front.issue_payment_codes(list(batch), strict=strict))

    def cancel_payment_codes(
        self, batch: Iterable[PaymentCodeKey | Mapping[str, Any]], *, strict: bool | None = None
    ) -> list[CatalogOutcome]:
        """Cancel payment codes."""
        return self._run(self._front.cancel_payment_codes(list(batch), strict=strict))

    def expire_payment_codes(self, limit: int = 1000) -> int:
        """Expire up to `limit` codes whose time is over; how many were."""
        return self._run(self._front.expire_payment_codes(limit))

    def get_company(self, company_id: UUID, *, fresh: bool = False) -> Company | None:
        """One company, cached; `fresh` asks the database."""
        return self._run(self._front.get_company(company_id, fresh=fresh))

    def get_route(self, company_id: UUID, route_id: UUID, *, fresh: bool = False) -> Route | None:
        """One route of that company, cached; `fresh` asks the database."""
        return self._run(self._front.get_route(company_id, route_id, fresh=fresh))

    def get_payment_code(self, company_id: UUID, code: str, *, fresh: bool = False) -> PaymentCode | None:
        """One payment code of that company, cached; `fresh` asks the database.

        `used_tickets` changes with every sale and is announced to nobody: it may be as old as
        `catalog_ttl`.
        """
        return self._run(self._front.get_payment_code(company_id, code, fresh=fresh))

    def list_companies(self, limit: int = 100, after_id: UUID | None = None) -> list[Company]:
        """Companies by id, from the one behind `after_id`."""
        return self._run(self._front.list_companies(limit, after_id))

    def list_routes(self, company_id: UUID, limit: int = 100, after_id: UUID | None = None) -> list[Route]:
        """A company's routes by id, from the one behind `after_id`."""
        return self._run(self._front.list_routes(company_id, limit, after_id))

    def list_payment_codes(
        self, company_id: UUID, limit: int = 100, after_id: UUID | None = None
    ) -> list[PaymentCode]:
        """A company's payment codes by id, from the one behind `after_id`."""
        return self._run(self._front.list_payment_codes(company_id, limit, after_id))

    # -- reading ------------------------------------------------------------------------------------------

    def get_ticket(
        self, ticket_id: UUID, company_id: UUID | None = None, *, consistency: Consistency | None = None
    ) -> Ticket | None:
        """One ticket (of that company, if one is named), or None.

        `consistency`, of all reads: `replica` takes what `read_dsn` has, `own_writes` waits there for
        what this client has written (and goes to the primary when that takes long), `primary` asks the
        primary.
        """
        return self._run(self._front.get_ticket(ticket_id, company_id, consistency=consistency))

    def tickets_by_phone(
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
        return self._run(
            self._front.tickets_by_phone(
                company_id, phone, limit, before_created_at, before_id, consistency=consistency
            )
        )

    def pending_tickets(
        self,
        company_id: UUID,
        limit: int = 100,
        after_created_at: datetime | None = None,
        after_id: UUID | None = None,
        *,
        consistency: Consistency | None = None,
    ) -> list[Ticket]:
        """Tickets not yet used, oldest first; go on with the last one's time and id."""
        return self._run(
            self._front.pending_tickets(
                company_id, limit, after_created_at, after_id, consistency=consistency
            )
        )

    def company_summary(
        self,
        company_id: UUID,
        from_: datetime | None = None,
        to: datetime | None = None,
        *,
        consistency: Consistency | None = None,
    ) -> CompanySummary | None:
        """Counts and sums (minor units) over the tickets of [from_, to), or None for an unknown company."""
        return self._run(self._front.company_summary(company_id, from_, to, consistency=consistency))

    def list_unapplied_payments(
        self,
        limit: int = 100,
        reason: str | None = None,
        after_last_seen_at: datetime | None = None,
        after_transaction_id: str | None = None,
        include_resolved: bool = False,
    ) -> list[UnappliedPayment]:
        """Unapplied payments, oldest `last_seen_at` first; go on with the last one's time and id."""
        return self._run(
            self._front.list_unapplied_payments(
                limit, reason, after_last_seen_at, after_transaction_id, include_resolved
            )
        )

    def verify(self) -> list[Violation]:
        """Every broken invariant of the whole database; none when all is well."""
        return self._run(self._front.verify())

    # -- inside -------------------------------------------------------------------------------------------

    def forget(self) -> object:
        """For a forked child: let go of what belongs to the parent."""
        # Also the thread, which does not exist here, and the lock that it may have held.
        engine, self._engine = self._engine, None
        if self._finalizer is not None:
            self._finalizer.detach()
        self._lock = threading.Lock()
        return engine

    def _be_elsewhere(self) -> None:
        """Raises `UsageError` on the thread that would have to answer: it would wait for itself."""
        engine = self._engine
        if engine is not None and engine.thread is threading.current_thread():
            raise UsageError(
                "the client was called by its own event hook", hint="have another thread call it, later"
            )

    def _submit(self, call: Coroutine[Any, Any, T]) -> Future[T]:
        try:
            self._be_elsewhere()
        except UsageError:
            call.close()
            raise
        with self._lock:
            if self._closed:
                call.close()
                raise ClosedError("the client is closed")
            if self._engine is None:
                self._engine = _Engine.start()
                self._finalizer = weakref.finalize(self, self._engine.stop, self._front, 0.0)
            return asyncio.run_coroutine_threadsafe(call, self._engine.loop)

    @staticmethod
    async def _create(
        method: Callable[..., Awaitable[TicketOutcome]], ticket: TicketInput, **options: Any
    ) -> TicketOutcome:
        """Called on the client's loop: what `create_ticket` returns belongs to the loop it is called on."""
        return await method(ticket, **options)

    def _run(self, call: Coroutine[Any, Any, T]) -> T:
        future = self._submit(call)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # Ctrl-C: nobody waits any more.
            raise
