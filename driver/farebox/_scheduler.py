"""Hands callers to connections: shared batches, pipelining, retries, deadlines, back-pressure.

A batch leaves whenever a connection is free of shared batches, or as soon as it is full and there is
room in a pipeline; no timer is involved. So one caller alone waits for nobody, and ten thousand travel
in few, full batches. Everything here runs on one event loop; nothing is locked because nothing awaits
between reading and writing state.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeVar

from farebox import calls, queue_calls
from farebox._deadlines import Deadlines
from farebox._dsn import Target
from farebox._line import Line
from farebox._queue import Caller, Part, Patience, Share, Unit
from farebox._wire import Answer, ForsakenError, Lane, Statement
from farebox.calls import Call
from farebox.encoding import Element
from farebox.errors import (
    BusyError,
    ClosedError,
    ConfigurationError,
    DatabaseError,
    DeadlineExceededError,
    FareboxError,
    TransientError,
    lost_shard,
)
from farebox.events import Observer

R = TypeVar("R")

_UNANSWERED = "no answer in time; whether the call took effect is unknown"
_UNSENT = "not sent in time: nothing happened"
_AGAIN = "the same call again is safe, and tells"
_WATCH_SECONDS = 1.0
_END_SECONDS = 5.0
_READ_ONLY = "25006"


@dataclass(frozen=True, slots=True)
class Limits:
    """How much at once: connections, statements in flight on each, elements in a batch, waiting callers.

    When `waiting` callers wait already, a further one waits for a place, or gets `BusyError` (`when_full`).
    """

    connections: int = 4
    pipeline: int = 4
    pooled_pipeline: int = 1
    batch: int = 100
    waiting: int = 10_000
    when_full: Literal["wait", "raise"] = "wait"


@dataclass(slots=True)
class _Link:
    """A connection, with what is in flight on it, oldest first."""

    lane: Lane
    units: dict[Unit, None] = field(default_factory=dict["Unit", None])
    shared: int = 0  # how many of them are shared batches
    forsaken: Unit | None = None  # the oldest, if nobody waited for it when last looked at


class Scheduler:
    """Connections to one target and the calls that wait for them. Belongs to the running event loop."""

    def __init__(
        self, target: Target, limits: Limits, patience: Patience, observer: Observer, *, prepare: bool | None
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._target = target
        self._limits = limits
        self._patience = patience
        self._observer = observer
        self._prepare = prepare
        self._links: dict[Lane, _Link] = {}
        self._connecting: set[asyncio.Task[None]] = set()
        self._refusals = 0
        self._connect_after = 0.0
        self.tickets = Share(calls.CREATE_TICKETS, calls.CREATE_TICKET, limits.batch)
        self.requests = Share(queue_calls.ENQUEUE_TICKETS, None, limits.batch)
        self._line = Line((self.tickets, self.requests), limits.waiting)
        self._deadlines = Deadlines(self._expire)
        self._delayed: dict[Unit, asyncio.TimerHandle] = {}
        self._waking = False
        self._rushing = False
        self._unread: deque[partial[None]] = deque()
        self._closed = False
        self._quiet: asyncio.Future[None] | None = None
        self._watch: asyncio.TimerHandle | None = None
        self.writes = 0  # answered calls that may have changed something

    # -- what callers do ----------------------------------------------------------------------------------

    def share(self, share: Share, ticket: Element, patience: Patience) -> Caller:
        """One element of a shared batch, encoded when it has its place; the result is its row's model."""
        caller = Caller(self._loop, ticket=ticket)
        self.enter(caller, share, patience)
        return caller

    def run(
        self,
        call: Call[R],
        parameters: Sequence[bytes | None],
        patience: Patience,
        *,
        part: Part | None = None,
        position: int | None = None,
    ) -> Awaitable[list[R]]:
        """One statement of its own; the result is its rows' models. The rest is as with `Caller`."""
        caller = Caller(self._loop, payload=tuple(parameters))
        caller.part, caller.position = part, position
        self.enter(caller, call, patience)
        return caller

    def enter(self, caller: Caller, way: Share | Call[Any], patience: Patience) -> None:
        """Put the caller in line. No coroutine: this is on the path of every call."""
        if self._closed:
            raise ClosedError("the client is closed")
        if self._limits.when_full == "raise" and self._line.full and not self._line.make_room():
            raise BusyError(f"{self._line.waiting} calls wait already")
        caller.way = way
        caller.attempts = patience.attempts
        caller.queued_at = self._loop.time()
        rush = self._line.enter(caller)
        if patience.timeout is not None:
            caller.deadline = caller.queued_at + patience.timeout
            self._deadlines.add(caller, patience.timeout)
        if rush:
            self._rush()
        self._wake()

    def stop(self) -> None:
        """Take nothing more, and fail what was not sent."""
        if self._closed:
            return
        self._read_all()
        self._closed = True
        error = ClosedError("the client was closed before the call was sent")
        for task in self._connecting:
            task.cancel()
        for unit, timer in self._delayed.items():
            timer.cancel()
            self._line.put_back(unit)
        self._delayed.clear()
        for caller in self._line.everybody():
            caller.fail(error)
        self._line.clear()

    async def finish(self, grace: float) -> None:
        """After `stop`: wait up to `grace` seconds for what was sent, then disconnect."""
        if any(lane.in_flight for lane in self._links):
            self._quiet = self._loop.create_future()
            await asyncio.wait([self._quiet], timeout=grace)
        self.disconnect()
        if self._connecting:
            await asyncio.wait(self._connecting, timeout=_END_SECONDS)

    def disconnect(self) -> None:
        """After `stop`: close the connections, whatever is under way."""
        for lane in list(self._links):
            lane.close(ClosedError("the client was closed", hint=f"{_UNANSWERED}; {_AGAIN}"))
        if self._watch is not None:
            self._watch.cancel()

    def abandon(self) -> None:
        """Disconnect after the event loop was closed."""
        for lane in self._links:
            lane.abandon()
            self._observer.connection("closed", self._target)

    def _expire(self, caller: Caller) -> None:
        self._read_all()
        sent = caller.failures > 0 or any(caller.unit in link.units for link in self._links.values())
        caller.fail(DeadlineExceededError(_UNANSWERED if sent else _UNSENT, hint=_AGAIN))

    # -- from callers to connections ----------------------------------------------------------------------

    def _wake(self) -> None:
        """Dispatch after everything that is ready to run now: callers of the same moment share a batch."""
        if not self._waking:
            self._waking = True
            self._loop.call_soon(self._dispatch)

    def _rush(self) -> None:
        """A full batch need not wait for the rest of ten thousand callers who are all ready to run.

        Connections come free for it when their answers are taken. None of these callers could look at
        those yet, so they stay unread until the event loop has its turn again.
        """
        self._rushing = True
        for lane in list(self._links):
            lane.poll()
        self._rushing = False
        self._dispatch()

    def _dispatch(self) -> None:
        self._waking = False
        if self._closed:
            return
        while True:
            for link in sorted(self._links.values(), key=lambda link: link.lane.in_flight):
                if link.lane.in_flight < self._width(link.lane):
                    unit = self._line.next(any_size=link.shared == 0)
                    if unit is not None:
                        self._send(link, unit)
                        break
            else:
                # Only now: whoever comes in has to be encoded, and what was ready is on its way first.
                if not self._line.admit():
                    break
        self._connect_as_needed()

    def _width(self, lane: Lane) -> int:
        """How many statements may be in flight."""
        return self._limits.pooled_pipeline if lane.pooled else self._limits.pipeline

    def _send(self, link: _Link, unit: Unit) -> None:
        link.units[unit] = None
        link.shared += unit.share is not None
        if self._watch is None:
            self._watch = self._loop.call_later(_WATCH_SECONDS, self._look_after)
        position = unit.callers[0].position
        link.lane.send(
            Statement(unit.call, unit.parameters, partial(self._answered, link, unit), position=position)
        )

    # -- from connections to callers ----------------------------------------------------------------------

    def _answered(self, link: _Link, unit: Unit, statement: Statement, answer: Answer | FareboxError) -> None:
        del link.units[unit]
        link.shared -= unit.share is not None
        read = partial(self._read, link, unit, statement.sent_at, self._loop.time(), answer)
        if not self._rushing:
            read()
            return
        if not self._unread:
            self._loop.call_soon(self._read_next)
        self._unread.append(read)

    def _read_next(self) -> None:
        """One at a time: meanwhile others arrive, and connections want to be busy."""
        read = self._unread.popleft() if self._unread else None
        if self._unread:
            self._loop.call_soon(self._read_next)
        if read is not None:
            read()

    def _read_all(self) -> None:
        while self._unread:
            self._unread.popleft()()

    def _read(
        self, link: _Link, unit: Unit, sent_at: float, answered_at: float, answer: Answer | FareboxError
    ) -> None:
        attempt = unit.failures + 1
        models: list[Any] = []
        rows = answer if isinstance(answer, FareboxError) else answer()
        error = rows if isinstance(rows, FareboxError) else None
        if not isinstance(rows, FareboxError):
            try:
                models = unit.deliver(rows)
            except DatabaseError as mismatch:
                error = mismatch
        if self._observer.wants_batches:
            waited = sent_at - min(caller.queued_at for caller in unit.callers)
            self._observer.batch(
                self._target,
                unit.call.function,
                len(unit.callers),
                attempt,
                waited,
                answered_at - sent_at,
                models,
                error,
            )
        if error is not None:
            if error.sqlstate == _READ_ONLY:
                # A new connection may find the server that writes.
                self._loop.call_soon(link.lane.close, TransientError(str(error.args[0]), sqlstate=_READ_ONLY))
            self._failed(unit, error)
        else:
            self.writes += unit.call.writes
            if unit.lost:
                self._failed(unit.again(unit.lost), lost_shard())
        self._deadlines.tidy()

    def _failed(self, unit: Unit, error: FareboxError) -> None:
        to_be_split = unit.may_be_split(error)
        if self._closed:
            # Whose fault it was nobody will find out any more: it must not be told to all of them.
            closed = ClosedError("the client was closed before the call succeeded", hint=_AGAIN)
            for caller in unit.callers:
                caller.fail(closed if to_be_split else error)
            return
        if to_be_split:
            for half in unit.halves():
                self._enqueue(half)
            return
        if isinstance(error, ForsakenError):
            for caller in unit.callers:
                caller.attempts += 1  # Somebody else's call took the connection down: that was no attempt.
        retry = unit.to_retry(error, self._loop.time(), self._patience)
        if retry is not None:
            again, delay = retry
            self._observer.retry(unit.call.function, len(again.callers), again.failures, delay, error)
            self._delayed[again] = self._loop.call_later(delay, self._resume, again)

    def _resume(self, unit: Unit) -> None:
        del self._delayed[unit]
        self._enqueue(unit)

    def _enqueue(self, unit: Unit) -> None:
        self._line.put_back(unit)
        self._wake()

    # -- connections --------------------------------------------------------------------------------------

    def _on_change(self, lane: Lane) -> None:
        if lane.lost and self._links.pop(lane, None) is not None:
            if self._closed:
                self._observer.connection("closed", self._target)
            else:
                self._observer.connection("lost", self._target, lane.why)
        if self._quiet is not None and not self._quiet.done() and not any(x.in_flight for x in self._links):
            self._quiet.set_result(None)
        self._wake()

    def _look_after(self) -> None:
        """Give up connections whose oldest statement nobody has waited for since the last look.

        Either it waits for a lock, or the connection is dead and nobody said so; its callers were
        cancelled or are out of time, and others need the connection.
        """
        self._watch = None
        for link in list(self._links.values()):
            oldest = next(iter(link.units), None)
            if oldest is None or not all(caller.done() for caller in oldest.callers):
                link.forsaken = None
            elif link.forsaken is not oldest:
                link.forsaken = oldest
            else:
                link.lane.abort()
        if any(link.units for link in self._links.values()):
            self._watch = self._loop.call_later(_WATCH_SECONDS, self._look_after)

    def _connect_as_needed(self) -> None:
        """Open connections while work waits that none of the open ones can take."""
        if self._loop.time() < self._connect_after or (self._connecting and not self._links):
            return
        if not self._links:
            self._line.purge()
        wanted = self._line.statements
        if self._refusals or not self._links:
            wanted = min(wanted, 1)  # The first one finds out whether the server is there at all.
        wanted = min(wanted, self._limits.connections - len(self._links))
        while len(self._connecting) < wanted:
            task = self._loop.create_task(self._connect())
            self._connecting.add(task)
            task.add_done_callback(self._tried)

    def _tried(self, task: asyncio.Task[None]) -> None:
        # Not before: whoever looks while the last one counts as under way begins no other.
        self._connecting.discard(task)
        self._wake()

    async def _connect(self) -> None:
        refusals = self._refusals
        try:
            lane = await Lane.open(self._target, prepare=self._prepare, on_change=self._on_change)
        except FareboxError as error:
            self._refused(error, refusals)
        except Exception as error:  # Not psycopg's: whatever it is, callers must not wait for it.
            self._refused(ConfigurationError(f"cannot connect: {type(error).__name__}"), refusals)
        else:
            self._refusals = 0
            if self._closed:
                lane.close(ClosedError("the client was closed"))
                return
            self._links[lane] = _Link(lane)
            self._observer.connection("opened", self._target)

    def _refused(self, error: FareboxError, refusals: int) -> None:
        """Without any connection, everybody who waits has failed once; with some, there are just fewer.

        Of several that were under way at once, when there had been so many `refusals`, one counts.
        """
        self._observer.connection("refused", self._target, error)
        if self._refusals != refusals:
            return
        self._refusals += 1
        delay = self._patience.delay(self._refusals)
        self._connect_after = self._loop.time() + delay
        self._loop.call_at(self._connect_after, self._wake)
        if self._links:
            return
        for caller in self._line.everybody():
            caller.failures += 1
            if not isinstance(error, TransientError) or not caller.may_wait(self._connect_after):
                caller.fail(error)
