"""Waits for what becomes of queued requests: woken by NOTIFY, correct without it.

All who wait share one call at a time. A notification names the requests that are settled, and those are
asked about at once; whoever is not named (a lost notification, a pooler that passes none on) is asked
about now and then all the same.
"""

from __future__ import annotations

import asyncio
import copy
from contextlib import suppress
from itertools import islice
from typing import Final

from farebox._dsn import Target
from farebox._listener import Listener
from farebox._queue import MAX_BATCH_BYTES, Patience
from farebox._scheduler import Scheduler
from farebox.encoding import join
from farebox.errors import ClosedError, FareboxError, TransientError
from farebox.events import Observer
from farebox.models import TicketOutcome
from farebox.queue_calls import LISTEN_FOR_OUTCOMES, QUEUED_OUTCOMES

_LOOK_EVERY_SECONDS: Final = 0.5
_MOST_AT_ONCE: Final = 1000
_PAUSE: Final = 0.1


class _Waiting:
    """One queued request and everybody who waits for it."""

    __slots__ = ("futures", "payload")

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self.futures: set[asyncio.Future[TicketOutcome]] = set()


class Outcomes:
    """Everybody who waits for outcomes on one event loop."""

    def __init__(self, target: Target, scheduler: Scheduler, patience: Patience, observer: Observer) -> None:
        self._loop = asyncio.get_running_loop()
        self._scheduler = scheduler
        self._patience = patience
        self._waiting: dict[int, _Waiting] = {}
        self._next: dict[int, None] = {}  # whom to ask about next, in order
        self._something = asyncio.Event()
        self._asking: asyncio.Task[None] | None = None
        self._listener = Listener(
            LISTEN_FOR_OUTCOMES,
            target,
            patience,
            observer,
            heard=self._heard,
            missed=lambda: self._ask_about(*self._waiting),
        )

    async def outcome(self, queue_id: int, payload: bytes) -> TicketOutcome:
        """What becomes of the request `payload` that was stored as `queue_id`; waits until it is settled."""
        waiting = self._waiting.setdefault(queue_id, _Waiting(payload))
        future: asyncio.Future[TicketOutcome] = self._loop.create_future()
        waiting.futures.add(future)
        self._ask_about(queue_id)
        if self._asking is None or self._asking.done():
            self._asking = self._loop.create_task(self._ask())
        self._listener.start()
        try:
            return await future
        finally:
            waiting.futures.discard(future)
            if not waiting.futures and self._waiting.get(queue_id) is waiting:
                del self._waiting[queue_id]

    def stop(self) -> None:
        """Whoever still waits gets `ClosedError`."""
        self._listener.stop()
        if self._asking is not None:
            self._asking.cancel()
        self._fail(list(self._waiting), ClosedError("the client was closed"))

    async def finish(self) -> None:
        """After `stop`: wait for its end."""
        await self._listener.finish()
        if self._asking is not None:
            await asyncio.wait([self._asking])

    def _ask_about(self, *queue_ids: int) -> None:
        self._next.update(dict.fromkeys(queue_ids))
        self._something.set()

    async def _ask(self) -> None:
        """As long as anybody waits."""
        while self._waiting:
            if not self._next:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._something.wait(), _LOOK_EVERY_SECONDS)
                if not self._next:
                    self._look_again()
            self._something.clear()
            ids = self._take_next()
            if ids:
                await self._ask_for(ids)

    def _take_next(self) -> list[int]:
        """Whom to ask about now: no more than one statement should carry."""
        ids: list[int] = []
        looked_at = size = 0
        for queue_id in self._next:
            waiting = self._waiting.get(queue_id)
            if waiting is not None:
                size += len(waiting.payload)
                if ids and (len(ids) == _MOST_AT_ONCE or size > MAX_BATCH_BYTES):
                    break
                ids.append(queue_id)
            looked_at += 1
        self._next = dict.fromkeys(islice(self._next, looked_at, None))
        return ids

    def _look_again(self) -> None:
        """Nobody was named for a while: ask about everybody, or in turn when notifications do arrive."""
        if not self._listener.listening:
            self._ask_about(*self._waiting)
            return
        for queue_id in list(self._waiting)[:_MOST_AT_ONCE]:
            self._waiting[queue_id] = self._waiting.pop(queue_id)
            self._ask_about(queue_id)

    async def _ask_for(self, ids: list[int]) -> None:
        numbers = f"{{{','.join(map(str, ids))}}}".encode()
        batch = join(self._waiting[queue_id].payload for queue_id in ids)
        try:
            outcomes = await self._scheduler.run(QUEUED_OUTCOMES, (numbers, batch), self._patience)
        except TransientError:
            await asyncio.sleep(_PAUSE)
            self._ask_about(*ids)
            return
        except FareboxError as error:
            self._fail(ids, error)
            return
        for outcome in outcomes:
            waiting = self._waiting.pop(ids[outcome.ordinal - 1], None)
            for future in waiting.futures if waiting is not None else ():
                if not future.done():
                    future.set_result(outcome.model_copy(update={"ordinal": 1}))

    def _fail(self, ids: list[int], error: FareboxError) -> None:
        for queue_id in ids:
            waiting = self._waiting.pop(queue_id, None)
            for future in waiting.futures if waiting is not None else ():
                if not future.done():
                    future.set_exception(copy.copy(error))

    def _heard(self, payload: str) -> None:
        """Some requests are settled."""
        told = [int(number) for number in payload.split(",") if number.isdigit()]
        self._ask_about(*(queue_id for queue_id in told if queue_id in self._waiting))
