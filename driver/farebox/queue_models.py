"""What the functions of the queue return, as pydantic models. Raw requests stay out of every repr."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from pydantic import Field

from farebox.models import Row

__all__ = [
    "BatchCounts",
    "DeadRequest",
    "DroppedRequest",
    "PausedCompany",
    "QueueId",
    "QueueMetrics",
    "QueuedRequest",
    "RetriedRequest",
]


class QueueId(Row):
    """Under which id one element of a batch is stored; `ordinal` counts from 1.

    None: a router could not reach the company's shard, and the request is not stored.
    """

    ordinal: int
    queue_id: int | None

    @property
    def is_lost(self) -> bool:
        """Whether it is not stored, for its shard did not answer."""
        return self.queue_id is None


class BatchCounts(Row):
    """What became of the requests of one batch: `taken` is the sum of all the others.

    `retried` were put back to be tried again, `dead` were given up.
    """

    taken: int
    created: int
    duplicates: int
    conflicts: int
    rejected: int
    retried: int
    dead: int


class QueueMetrics(Row):
    """The state of the queue.

    `size` counts what is stored and not settled: `ready`, `delayed` (in backoff) and `paused` together.
    `by_attempts` counts requests by failed attempts; `dead_tuples` and `oldest_xmin_age` (in
    transactions) tell whether vacuum keeps up and what an old snapshot costs.
    """

    size: int
    oldest_age: timedelta | None
    ready: int
    delayed: int
    paused: int
    by_attempts: dict[int, int]
    dead: int
    dead_tuples: int
    oldest_xmin_age: int | None


class QueuedRequest(Row):
    """A request that waits, as it came."""

    queue_id: int
    company_id: UUID | None
    monime_transaction_id: str | None
    state: Literal["ready", "delayed", "paused"]
    attempts: int
    reason: str | None
    enqueued_at: datetime
    ready_at: datetime | None
    request: Any = Field(repr=False)


class DeadRequest(Row):
    """A request that was given up, or came to no ticket and is kept nowhere else.

    `key` names it for retrying and dropping: `queue:…`, or `payment:…` for an unapplied payment.
    """

    key: str
    company_id: UUID | None
    monime_transaction_id: str | None
    reason: str
    detail: str | None
    attempts: int
    first_seen_at: datetime
    last_seen_at: datetime
    request: Any = Field(repr=False)


class RetriedRequest(Row):
    """Under which queue id a request is tried again; None when there is no such request."""

    key: str
    queue_id: int | None


class DroppedRequest(Row):
    """A request that was removed, whole."""

    key: str
    company_id: UUID | None
    monime_transaction_id: str | None
    reason: str | None
    request: Any = Field(repr=False)


class PausedCompany(Row):
    """A company whose queued requests wait, and how many they are."""

    company_id: UUID
    paused_at: datetime
    waiting: int
