"""The worker: makes tickets of queued requests until it is told to stop.

It processes without pause while there is work and sleeps when there is none, until NOTIFY wakes it or the
flush interval is over. All that matters is done inside the database, in one transaction a batch; killing
the worker at any moment loses nothing and does nothing twice.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, cast

import psycopg

from farebox._dsn import Target
from farebox._queue import Patience
from farebox._silence import watched
from farebox._wire import connect, is_pooled
from farebox.errors import (
    ConfigurationError,
    FareboxError,
    NotMigratedError,
    PermissionDeniedError,
    map_error,
)
from farebox.events import BatchEvent, Event, Hook, RetryEvent, name
from farebox.queue_calls import LISTEN_FOR_WORK
from farebox.queue_models import BatchCounts
from farebox.worker_health import COUNTS, Health
from farebox.worker_session import NOTHING, Session

log: Final = logging.getLogger("farebox.worker")

_FATAL: Final = (ConfigurationError, NotMigratedError, PermissionDeniedError)
_HEARTBEAT_SECONDS: Final = 15.0
_FUNCTION: Final = "process_ticket_queue"
# How the counts of a batch are called where outcomes are told one by one.
_OUTCOMES: Final = {
    "created": "created",
    "duplicates": "duplicate",
    "conflicts": "conflict",
    "rejected": "rejected",
    "retried": "retried",
    "dead": "dead",
}
# After a batch that was not full: what comes meanwhile goes together, and under load nobody has to ring.
_GATHER_SECONDS: Final = 0.005
# A producer that saw the bell silent, just before a worker lay down, has committed by then.
_SECOND_LOOK_SECONDS: Final = 0.02
# In all a little longer than the longest backoff.
_MOST_LOOKS: Final = 75
# So many batches' worth of attempts in a row of which nothing came are enough for one run of `drain`.
_MOST_PUT_BACK: Final = 10


class Worker:
    """Processes the queue of one database with `concurrency` connections, on the running event loop.

    `flush` is the longest it sleeps, in seconds, when nothing wakes it. Through a transaction-mode pooler
    no notifications arrive; `listen_dsn` may then name a direct way to listen. `on_event` is told of batches,
    retries and connections as the client's is, so `farebox.metrics.DriverMetrics` counts both.
    """

    def __init__(
        self,
        dsn: str,
        *,
        concurrency: int = 2,
        batch_size: int = 100,
        flush: float = 0.5,
        listen_dsn: str | None = None,
        on_change: Callable[[Health], None] = lambda _: None,
        on_event: Hook = lambda _: None,
    ) -> None:
        if concurrency < 1 or not 1 <= batch_size <= 10_000 or not flush > 0:
            raise ConfigurationError("concurrency, batch size or flush interval out of range")
        self._target = Target(dsn)
        self._listen_target = self._target if listen_dsn is None else Target(listen_dsn)
        self._sessions = [Session(self._target, batch_size, self._tell) for _ in range(concurrency)]
        self._batch_size = batch_size
        self._flush = flush
        self._on_change = on_change
        self._on_event = on_event
        self._wake = asyncio.Event()
        self._one_awake = asyncio.Lock()
        self._stopping = asyncio.Event()
        self._patience = Patience(backoff=0.1, backoff_limit=10.0)
        self._proven = False  # the settings have worked once, so what fails now is no wrong setting
        self.health = Health(patience=max(30.0, 10 * flush))

    async def run(self) -> None:
        """Work until `stop` is called; what is under way then is finished.

        Raises `ConfigurationError`, `PermissionDeniedError` and `NotMigratedError` when the first call
        fails with one; after that it goes on trying, whatever happens.
        """
        listener = asyncio.create_task(self._listen())
        try:
            await self._work(forever=True)
        finally:
            listener.cancel()
            await asyncio.wait([listener])

    async def drain(self, most: int | None = None) -> None:
        """Work until nothing is ready, `most` requests were taken or `stop` is called, then return.

        Raises the first error.
        """
        await self._work(forever=False, most=most)

    def stop(self) -> None:
        """Finish what is under way, then return from `run` or `drain`."""
        self.health.state = "stopping"
        self._stopping.set()
        self._wake.set()

    # -- processing ---------------------------------------------------------------------------------------

    async def _work(self, *, forever: bool, most: int | None = None) -> None:
        sessions = self._sessions if most is None else self._sessions[:1]
        self.health.state = "running"
        try:
            async with asyncio.TaskGroup() as group:
                for session in sessions:
                    group.create_task(self._process(session) if forever else self._drain(session, most))
        except BaseExceptionGroup as errors:
            raise _first(errors) from None
        finally:
            for session in self._sessions:
                await session.close()
            self.health.state = "stopped"
            self._report()

    async def _process(self, session: Session) -> None:
        failures = 0
        worked = False
        while not self._stopping.is_set():
            try:
                counts = await self._step(session)
            except FareboxError as error:
                if isinstance(error, _FATAL) and not self._proven:
                    raise
                failures += 1
                delay = self._patience.delay(failures)
                self._tell(RetryEvent(_FUNCTION, self._batch_size, failures, delay, name(error)))
                log.warning(
                    "a batch failed (%s), again in %.0f ms",
                    error,
                    delay * 1e3,
                    extra={"farebox": {"event": "failure", "error": name(error), "delay": delay}},
                )
                await self._pause(delay)
                continue
            if session.careful and counts.retried:
                failures += 1  # What put this one back, a full disk say, may do so with the next.
                # But others must not wait for it longer than for any other look.
                await self._pause(min(self._patience.delay(failures), self._flush))
                continue
            failures = 0
            if counts.taken >= self._batch_size or (session.careful and session.found):
                self._wake.set()  # There is more than one can do: one of those who rest comes along.
            if not session.found:
                await self._rest(shortly=worked)
            elif not session.careful and counts.taken < self._batch_size:
                await self._pause(_GATHER_SECONDS)
            worked = session.found

    async def _pause(self, seconds: float) -> None:
        """Sleep whatever happens, unless the worker is stopped."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    async def _drain(self, session: Session, most: int | None) -> None:
        left = most
        looks = put_back = 0
        while not self._stopping.is_set() and (left is None or left > 0):
            counts = await self._step(session)
            left = None if left is None else left - counts.taken
            if session.found:
                looks = 0
                put_back = put_back + 1 if counts.retried == counts.taken else 0
            elif session.careful and looks < _MOST_LOOKS and await session.is_anything_ready():
                # Somebody's attempt is under way, or was when he died: so long nobody else begins one.
                looks += 1
                await self._pause(_SECOND_LOOK_SECONDS)
            else:
                return
            if put_back > _MOST_PUT_BACK * self._batch_size:
                if not session.careful:
                    return
                # Whole batches are not put back for what is nobody's fault: they tell what it is.
                session.careful = put_back = 0

    async def _step(self, session: Session) -> BatchCounts:
        careful = session.careful > 0
        began = time.monotonic()
        try:
            counts = await session.step()
        except FareboxError as error:
            self.health.last_error = str(error)
            self._report()
            self._tell(self._batch_event(NOTHING, time.monotonic() - began, name(error)))
            raise
        self._proven = True
        self.health.answered_at = time.time()
        for key in COUNTS:
            self.health.totals[key] += getattr(counts, key)
        self._report()
        if counts.taken:
            seconds = time.monotonic() - began
            self._tell(self._batch_event(counts, seconds))
            # With care every request is a batch: one line each only if something is wrong with it.
            level = logging.DEBUG if careful and not counts.retried and not counts.dead else logging.INFO
            log.log(
                level,
                "%s in %.1f ms%s",
                ", ".join(f"{getattr(counts, key)} {key}" for key in COUNTS),
                seconds * 1e3,
                " (with care)" if careful else "",
                extra={
                    "farebox": {"event": "batch"}
                    | counts.model_dump()
                    | {"duration": seconds, "careful": careful}
                },
            )
        return counts

    async def _rest(self, *, shortly: bool) -> None:
        """Sleep until something wakes the worker; however many rest, one at a time waits to be woken.

        So an idle worker looks once every flush interval, not once for each connection; and `shortly` after
        it has worked, once more.
        """
        if shortly:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), min(_SECOND_LOOK_SECONDS, self._flush))
            return
        async with self._one_awake:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._flush)
            if not self._stopping.is_set():
                self._wake.clear()

    # -- listening ----------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        """Wake the worker at each notification, on a connection of its own that is never in a transaction.

        Whatever happens to it costs at most the flush interval.
        """
        failures = 0
        while True:
            failure: FareboxError
            connection: psycopg.AsyncConnection[Any] | None = None
            try:
                connection = await connect(self._listen_target)
                async with watched(connection, self._listen_target):
                    if await is_pooled(connection):
                        log.info(
                            "no notifications through a pooler: looking every %.0f ms", self._flush * 1e3
                        )
                        return
                    await connection.execute(LISTEN_FOR_WORK)
                failures = 0
                self.health.listening = True
                self._wake.set()  # What was stored before now was announced to nobody.
                while True:
                    async for _ in connection.notifies(timeout=_HEARTBEAT_SECONDS):
                        self._wake.set()
                    async with watched(connection, self._listen_target):
                        await connection.execute("")  # A server that vanished is noticed by this.
            except psycopg.Error as error:
                failure = map_error(error)
            finally:
                self.health.listening = False
                if connection is not None:
                    await connection.close()
            failures += 1
            log.warning(
                "the listener lost its connection: %s",
                failure,
                extra={"farebox": {"event": "listener_lost", "error": name(failure)}},
            )
            await asyncio.sleep(self._patience.delay(failures))

    def _batch_event(self, counts: BatchCounts, seconds: float, error: str | None = None) -> BatchEvent:
        outcomes = {outcome: getattr(counts, key) for key, outcome in _OUTCOMES.items()}
        told = {outcome: count for outcome, count in outcomes.items() if count}
        return BatchEvent(
            str(self._target), _FUNCTION, self._batch_size, 1, 0.0, seconds, counts.taken, told, error
        )

    def _tell(self, event: Event) -> None:
        try:
            self._on_event(event)
        except Exception:
            log.exception("the event hook failed")

    def _report(self) -> None:
        self.health.connections = sum(session.connected for session in self._sessions)
        self._on_change(self.health)


def _first(error: BaseException) -> BaseException:
    """The first of the errors of a task group."""
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return error
