"""The queue's part of the client for threads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterable
from datetime import datetime
from typing import Any, Literal, TypeVar, overload
from uuid import UUID

from farebox._async_queue import AsyncQueuedTicket
from farebox._bulk import TicketInput
from farebox.client import AsyncFarebox
from farebox.models import TicketOutcome
from farebox.queue_models import (
    DeadRequest,
    DroppedRequest,
    PausedCompany,
    QueuedRequest,
    QueueMetrics,
    RetriedRequest,
)

T = TypeVar("T")


class QueuedTicket:
    """A stored request: it is durable, and becomes a ticket soon. `queue_id` is its number."""

    __slots__ = ("_run", "_stored", "queue_id")

    def __init__(
        self, run: Callable[[Coroutine[Any, Any, TicketOutcome]], TicketOutcome], stored: AsyncQueuedTicket
    ) -> None:
        self._run = run
        self._stored = stored
        self.queue_id = stored.queue_id

    def __repr__(self) -> str:
        return f"{type(self).__name__}(queue_id={self.queue_id})"

    def result(self, timeout: float | None = None) -> TicketOutcome:
        """What became of it; waits until it is settled, for `timeout` seconds (default: the client's).

        `created` means that the payment has its ticket, by this request or by another one for the same
        payment. Raises `DeadlineExceededError`; the request stays stored: ask again.
        """
        return self._run(self._stored.result(timeout))


class SyncQueue(ABC):
    """Methods of `Farebox`."""

    _front: AsyncFarebox

    @abstractmethod
    def _run(self, call: Coroutine[Any, Any, T]) -> T: ...

    @overload
    def enqueue(
        self,
        ticket: TicketInput,
        *,
        wait: Literal[False] = False,
        strict: bool | None = None,
        timeout: float | None = None,
    ) -> QueuedTicket: ...
    @overload
    def enqueue(
        self,
        ticket: TicketInput,
        *,
        wait: Literal[True],
        strict: bool | None = None,
        timeout: float | None = None,
    ) -> TicketOutcome: ...
    def enqueue(
        self,
        ticket: TicketInput,
        *,
        wait: bool = False,
        strict: bool | None = None,
        timeout: float | None = None,
    ) -> QueuedTicket | TicketOutcome:
        """Store one request durably; it becomes a ticket soon. Calls made at the same time share batches.

        With `wait`, what became of it. `timeout` counts seconds, in all. After an error the same call again
        is safe: a request stored twice buys one ticket. Raises `InvalidRequestError` for a malformed request
        when strict, `BusyError`.
        """
        if wait:
            return self._run(self._front.enqueue(ticket, wait=True, strict=strict, timeout=timeout))
        return QueuedTicket(self._run, self._run(self._front.enqueue(ticket, strict=strict, timeout=timeout)))

    def enqueue_many(
        self, tickets: Iterable[TicketInput], *, strict: bool | None = None, chunk_size: int = 500
    ) -> list[QueuedTicket]:
        """Store any number of requests, in chunks of 1 to 10,000, each a transaction.

        Raises `InvalidRequestError` before anything is sent; after another error some chunks may be
        stored, and the same call again is safe.
        """
        stored = self._run(self._front.enqueue_many(list(tickets), strict=strict, chunk_size=chunk_size))
        return [QueuedTicket(self._run, ticket) for ticket in stored]

    def queue_size(self) -> int:
        """How many stored requests are not settled yet."""
        return self._run(self._front.queue_size())

    # -- operators ----------------------------------------------------------------------------------------

    def queue_metrics(self) -> QueueMetrics:
        """The state of the queue."""
        return self._run(self._front.queue_metrics())

    def list_queued_requests(
        self,
        limit: int = 100,
        company_id: UUID | None = None,
        transaction_id: str | None = None,
        state: Literal["ready", "delayed", "paused"] | None = None,
        after_queue_id: int | None = None,
    ) -> list[QueuedRequest]:
        """Requests that wait, oldest first; go on with the last one's id."""
        return self._run(
            self._front.list_queued_requests(limit, company_id, transaction_id, state, after_queue_id)
        )

    def list_dead_requests(
        self,
        limit: int = 100,
        company_id: UUID | None = None,
        transaction_id: str | None = None,
        reason: str | None = None,
        after_last_seen_at: datetime | None = None,
        after_key: str | None = None,
    ) -> list[DeadRequest]:
        """Requests that were given up or came to no ticket; go on with the last one's time and key."""
        return self._run(
            self._front.list_dead_requests(
                limit, company_id, transaction_id, reason, after_last_seen_at, after_key
            )
        )

    def retry_queued_requests(self, keys: Iterable[str]) -> list[RetriedRequest]:
        """Have requests tried again now, whether they are in backoff or dead; one answer for each key."""
        return self._run(self._front.retry_queued_requests(list(keys)))

    def drop_queued_requests(self, keys: Iterable[str]) -> list[DroppedRequest]:
        """Remove requests for good; what was removed, whole.

        If its answer is lost, the call is tried again, and what the first try removed is not in the result:
        list the requests before and keep what you cannot do without.
        """
        return self._run(self._front.drop_queued_requests(list(keys)))

    def pause_company_queue(self, company_id: UUID) -> int:
        """Let a company's requests wait; how many do."""
        return self._run(self._front.pause_company_queue(company_id))

    def resume_company_queue(self, company_id: UUID) -> int:
        """Put a paused company's requests back in line; how many."""
        return self._run(self._front.resume_company_queue(company_id))

    def list_paused_companies(self) -> list[PausedCompany]:
        """Companies whose requests are paused, longest first."""
        return self._run(self._front.list_paused_companies())
