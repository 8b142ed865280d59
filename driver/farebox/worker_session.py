"""One processing connection of a worker: whole batches, or single requests with care after a crash."""

from __future__ import annotations

from typing import Any, Final, TypeVar

import psycopg

from farebox._dsn import Target
from farebox._rows import Rows
from farebox._silence import watched
from farebox._wire import connect, is_pooled
from farebox.calls import Call
from farebox.errors import FareboxError, TransientError, map_error
from farebox.events import ConnectionEvent, Hook, name
from farebox.queue_calls import (
    BEGIN_QUEUED_REQUEST,
    BLAMELESS_ERRORS,
    PROCESS_QUEUED_REQUEST,
    PROCESS_TICKET_QUEUE,
    QUEUE_METRICS,
)
from farebox.queue_models import BatchCounts

R = TypeVar("R")

APPLICATION_NAME: Final = "farebox worker"
"""By this name `farebox metrics` and `farebox doctor` count the workers."""
MOST_CARE: Final = 10_000
CARE_EVERY: Final = 50
MOST_BLAMELESS: Final = 3
NOTHING: Final = BatchCounts(taken=0, created=0, duplicates=0, conflicts=0, rejected=0, retried=0, dead=0)


class Session:
    """A connection that processes the queue, opened when it is first used and again after it was lost.

    A request that kills the session leaves no trace in it: whatever the transaction had written about it
    is gone. So after each start and each failure that may be a request's fault the session is careful:
    the next requests, as many as may have been in the failed batch, are processed one by one, and each
    one's attempt is counted and committed before it is made. Only what kills its session alone is ever
    blamed, and after three times it is given up. One request at a time is processed like this in the
    whole database; meanwhile other careful sessions find nothing. A session that fails again before it
    has come through is careful for twice as many: others may have pushed in front. What is nobody's
    fault makes it careful when it has happened three times: it may be one request's after all, such as
    one that makes somebody's trigger fail, and put back alone it is in nobody's way.
    """

    def __init__(self, target: Target, batch_size: int, on_event: Hook = lambda _: None) -> None:
        self._target = target
        self._on_event = on_event
        self._batch_size = batch_size
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._next_care = batch_size
        self._settled = 0  # since the last failure
        self._blameless_failures = 0  # since it was careful for them
        self._batches = 0
        self._blameless: tuple[str, ...] = ()  # what the database says when we connect
        self.careful = batch_size
        self.found = False  # whether the last step found anything to do

    @property
    def connected(self) -> bool:
        """Whether there is a connection."""
        return self._connection is not None

    async def step(self) -> BatchCounts:
        """Process one batch, or one request with care; `found` tells whether anything was ready.

        Raises what `farebox.errors` makes of the error. All was put back then; call again after a pause.
        """
        if self._connection is None:
            self._connection = await self._connect()
        try:
            counts = await (self._careful_step() if self.careful else self._normal_step())
        except FareboxError as error:
            if (error.sqlstate or "").startswith(self._blameless):
                self._failed_blamelessly()
            else:
                self._failed()
            raise
        self._settled += counts.taken
        if self._settled > 100 * self._batch_size:
            self._next_care = self._batch_size
        return counts

    async def close(self) -> None:
        """Disconnect."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._on_event(ConnectionEvent("lost", str(self._target)))
            await connection.close()

    async def _normal_step(self) -> BatchCounts:
        """A batch. When there is none, and now and then, a request that others have begun and never ended."""
        self._batches += 1
        if self._batches % CARE_EVERY == 0:
            counts = await self._careful_step(unfinished_only=True)
            if self.found:
                return counts
        [counts] = await self._call(PROCESS_TICKET_QUEUE, self._batch_size)
        self.found = counts.taken > 0
        return counts if self.found else await self._careful_step(unfinished_only=True)

    async def _careful_step(self, *, unfinished_only: bool = False) -> BatchCounts:
        begun = await self._call(BEGIN_QUEUED_REQUEST, unfinished_only)
        self.found = bool(begun)
        if not begun:
            return NOTHING
        [counts] = await self._call(PROCESS_QUEUED_REQUEST, begun[0])
        if not counts.retried:
            self.careful = max(0, self.careful - 1)
        return counts  # of nothing, when somebody else was faster

    async def is_anything_ready(self) -> bool:
        """Whether a request waits that is neither in backoff nor paused, be somebody at work on it or not."""
        [metrics] = await self._call(QUEUE_METRICS)
        return metrics.ready > 0

    def _failed(self) -> None:
        self.careful = self._next_care
        self._next_care = min(2 * self._next_care, MOST_CARE)
        self._settled = 0

    def _failed_blamelessly(self) -> None:
        self._blameless_failures += 1
        if self._blameless_failures == MOST_BLAMELESS:
            self._blameless_failures = 0
            self.careful = max(self.careful, self._batch_size)

    async def _call(self, call: Call[R], *arguments: object) -> list[R]:
        connection = self._connection
        assert connection is not None  # step() has seen to that
        failure: FareboxError
        try:
            async with watched(connection, self._target):
                return call.load(await _answer(connection, call, *arguments))
        except psycopg.Error as error:
            failure = map_error(error)
        if connection.closed or failure.sqlstate == "25006":
            # Closed, or a server that has become a standby: another connection finds the new primary.
            await self.close()
            if not isinstance(failure, TransientError):
                failure = TransientError(str(failure.args[0]), sqlstate=failure.sqlstate)
        raise failure

    async def _connect(self) -> psycopg.AsyncConnection[Any]:
        failure: FareboxError
        connection: psycopg.AsyncConnection[Any] | None = None
        try:
            connection = await connect(self._target, APPLICATION_NAME)
            async with watched(connection, self._target):
                if await is_pooled(connection):
                    connection.prepare_threshold = None
                self._blameless = tuple(BLAMELESS_ERRORS.load(await _answer(connection, BLAMELESS_ERRORS)))
            self._on_event(ConnectionEvent("opened", str(self._target)))
            return connection
        except psycopg.Error as error:
            failure = map_error(error)
        except BaseException:
            if connection is not None:
                await connection.close()
            raise
        if connection is not None:
            await connection.close()
        self._on_event(ConnectionEvent("refused", str(self._target), name(failure)))
        raise failure


async def _answer(connection: psycopg.AsyncConnection[Any], call: Call[Any], *arguments: object) -> Rows:
    cursor = psycopg.AsyncRawCursor(connection)
    await cursor.execute(call.sql.encode(), arguments)
    return Rows(tuple(column.name for column in cursor.description or ()), await cursor.fetchall())
