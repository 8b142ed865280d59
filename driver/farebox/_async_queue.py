"""The queue's part of the client for coroutines."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Literal, overload
from uuid import UUID

from farebox import queue_calls
from farebox._async_part import AsyncPart
from farebox._bulk import TicketInput, portions
from farebox._queue import Part
from farebox.encoding import check_one, encode_one, join, to_parameter
from farebox.errors import DeadlineExceededError, UsageError, lost_shard
from farebox.models import TicketOutcome, TicketRequest
from farebox.queue_models import (
    DeadRequest,
    DroppedRequest,
    PausedCompany,
    QueuedRequest,
    QueueId,
    QueueMetrics,
    RetriedRequest,
)


class AsyncQueuedTicket:
    """A stored request: it is durable, and becomes a ticket soon. `queue_id` is its number."""

    __slots__ = ("_outcome", "_payload", "queue_id")

    def __init__(
        self,
        outcome: Callable[[int, bytes, float | None], Coroutine[Any, Any, TicketOutcome]],
        queue_id: int,
        payload: bytes,
    ) -> None:
        self._outcome = outcome
        self._payload = payload
        self.queue_id = queue_id

    def __repr__(self) -> str:
        return f"{type(self).__name__}(queue_id={self.queue_id})"

    async def result(self, timeout: float | None = None) -> TicketOutcome:
        """What became of it; waits until it is settled, for `timeout` seconds (default: the client's).

        `created` means that the payment has its ticket, by this request or by another one for the same
        payment. Raises `DeadlineExceededError`; the request stays stored: ask again.
        """
        return await self._outcome(self.queue_id, self._payload, timeout)


class AsyncQueue(AsyncPart):
    """Methods of `AsyncFarebox`."""

    @overload
    async def enqueue(
        self,
        ticket: TicketInput,
        *,
        wait: Literal[False] = False,
        strict: bool | None = None,
        timeout: float | None = None,
    ) -> AsyncQueuedTicket: ...
    @overload
    async def enqueue(
        self,
        ticket: TicketInput,
        *,
        wait: Literal[True],
        strict: bool | None = None,
        timeout: float | None = None,
    ) -> TicketOutcome: ...
    async def enqueue(
        self,
        ticket: TicketInput,
        *,
        wait: bool = False,
        strict: bool | None = None,
        timeout: float | None = None,
    ) -> AsyncQueuedTicket | TicketOutcome:
        """Store one request durably; it becomes a ticket soon. Calls made at the same time share batches.

        With `wait`, what became of it. `timeout` counts seconds, in all. After an error the same call again
        is safe: a request stored twice buys one ticket. Raises `InvalidRequestError` for a malformed request
        when strict, `BusyError`.
        """
        loop = asyncio.get_running_loop()
        if self._is_strict(strict):
            check_one(TicketRequest, ticket)
        patience = self._patience if timeout is None else replace(self._patience, timeout=timeout)
        ends_at = loop.time() + (math.inf if patience.timeout is None else patience.timeout)
        scheduler = self._live().primary
        caller = scheduler.share(scheduler.requests, ticket, patience)
        stored: QueueId = await caller
        payload = caller.payload
        assert isinstance(payload, bytes)  # its ticket, encoded
        assert stored.queue_id is not None  # else the scheduler would have asked again, or failed
        if wait:
            return await self._outcome(stored.queue_id, payload, ends_at - loop.time())
        return AsyncQueuedTicket(self._outcome, stored.queue_id, payload)

    async def enqueue_many(
        self, tickets: Iterable[TicketInput], *, strict: bool | None = None, chunk_size: int = 500
    ) -> list[AsyncQueuedTicket]:
        """Store any number of requests, in chunks of 1 to 10,000, each a transaction.

        Raises `InvalidRequestError` before anything is sent; after another error some chunks may be
        stored, and the same call again is safe.
        """
        if not 1 <= chunk_size <= 10_000:
            raise UsageError("chunk_size must be between 1 and 10000")
        checked = self._is_strict(strict)
        payloads: list[bytes] = []
        for ticket in tickets:
            payloads.append(encode_one(TicketRequest, ticket, len(payloads) + 1, strict=checked))
            if len(payloads) % chunk_size == 0:
                await asyncio.sleep(0)  # A million validations must not stop the event loop.
        stored: list[AsyncQueuedTicket] = []
        for chunk in portions(payloads, chunk_size):
            rows = await self._live().primary.run(
                queue_calls.ENQUEUE_TICKETS, (join(chunk),), self._patience, part=Part(len(chunk))
            )
            for row, payload in zip(rows, chunk, strict=True):
                if row.queue_id is None:
                    raise lost_shard()
                stored.append(AsyncQueuedTicket(self._outcome, row.queue_id, payload))
        return stored

    async def queue_size(self) -> int:
        """How many stored requests are not settled yet."""
        return (await self._run(queue_calls.QUEUE_SIZE))[0]

    # -- operators ----------------------------------------------------------------------------------------

    async def queue_metrics(self) -> QueueMetrics:
        """The state of the queue."""
        return (await self._run(queue_calls.QUEUE_METRICS))[0]

    async def list_queued_requests(
        self,
        limit: int = 100,
        company_id: UUID | None = None,
        transaction_id: str | None = None,
        state: Literal["ready", "delayed", "paused"] | None = None,
        after_queue_id: int | None = None,
    ) -> list[QueuedRequest]:
        """Requests that wait, oldest first; go on with the last one's id."""
        return await self._run(
            queue_calls.LIST_QUEUED_REQUESTS, limit, company_id, transaction_id, state, after_queue_id
        )

    async def list_dead_requests(
        self,
        limit: int = 100,
        company_id: UUID | None = None,
        transaction_id: str | None = None,
        reason: str | None = None,
        after_last_seen_at: datetime | None = None,
        after_key: str | None = None,
    ) -> list[DeadRequest]:
        """Requests that were given up or came to no ticket; go on with the last one's time and key."""
        return await self._run(
            queue_calls.LIST_DEAD_REQUESTS,
            limit,
            company_id,
            transaction_id,
            reason,
            after_last_seen_at,
            after_key,
        )

    async def retry_queued_requests(self, keys: Iterable[str]) -> list[RetriedRequest]:
        """Have requests tried again now, whether they are in backoff or dead; one answer for each key."""
        return await self._run(queue_calls.RETRY_QUEUED_REQUESTS, _array(list(keys)))

    async def drop_queued_requests(self, keys: Iterable[str]) -> list[DroppedRequest]:
        """Remove requests for good; what was removed, whole.

        If its answer is lost, the call is tried again, and what the first try removed is not in the result:
        list the requests before and keep what you cannot do without.
        """
        return await self._run(queue_calls.DROP_QUEUED_REQUESTS, _array(list(keys)))

    async def pause_company_queue(self, company_id: UUID) -> int:
        """Let a company's requests wait; how many do."""
        return (await self._run(queue_calls.PAUSE_COMPANY_QUEUE, company_id))[0]

    async def resume_company_queue(self, company_id: UUID) -> int:
        """Put a paused company's requests back in line; how many."""
        return (await self._run(queue_calls.RESUME_COMPANY_QUEUE, company_id))[0]

    async def list_paused_companies(self) -> list[PausedCompany]:
        """Companies whose requests are paused, longest first."""
        return await self._run(queue_calls.LIST_PAUSED_COMPANIES)

    # -- inside -------------------------------------------------------------------------------------------

    async def _outcome(self, queue_id: int, payload: bytes, timeout: float | None) -> TicketOutcome:
        """Wait for what becomes of a stored request."""
        patience = self._patience if timeout is None else replace(self._patience, timeout=timeout)
        seconds = patience.timeout
        try:
            async with asyncio.timeout(None if seconds == math.inf else seconds):
                return await self._live().outcomes.outcome(queue_id, payload)
        except TimeoutError:
            raise DeadlineExceededError(
                "the request is stored but not settled in time", hint="wait for its result again"
            ) from None


def _array(values: Sequence[str]) -> bytes:
    """An array of texts in PostgreSQL's notation."""

    def quoted(value: Any) -> bytes:
        text = to_parameter(value if isinstance(value, str) else str(value)) or b""
        return b'"' + text.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'

    return b"{" + b",".join(quoted(value) for value in values) + b"}"
