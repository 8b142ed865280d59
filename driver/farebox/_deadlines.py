"""Deadlines of many calls for the price of few timers.

Calls with the same time-out expire in the order they were made, so one queue and one timer for each
distinct time-out is enough, and what is answered leaves the queue's head without a heap: a timer for
each of 10,000 calls would cost more than their batches. Only time-outs that are computed, and hardly come
twice, share a heap.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Final

from farebox._queue import Caller

_TIDY_FROM: Final = 2000
_QUEUES: Final = 8


class Deadlines:
    """Calls `expire` for each caller who is still without an answer at its deadline."""

    def __init__(self, expire: Callable[[Caller], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._expire = expire
        self._queues: dict[float, deque[Caller]] = {}
        self._tidy_at: dict[float, int] = {}
        self._odd: list[tuple[float, int, Caller]] = []  # a heap, by deadline
        self._tidy_odd_at = _TIDY_FROM
        self._numbers = count()
        self._timer: asyncio.TimerHandle | None = None  # for the first of the heap, or earlier

    def add(self, caller: Caller, timeout: float) -> None:
        """Watch a caller whose deadline was set `timeout` seconds ahead when it came."""
        queue = self._queues.get(timeout)
        if queue is None:
            if len(self._queues) >= _QUEUES:
                self._add_odd(caller)
                return
            queue = self._queues[timeout] = deque()
            self._loop.call_at(caller.deadline, self._sweep, timeout)
        queue.append(caller)

    def tidy(self) -> None:
        """Let go of callers who have their answer; to be called whenever some have got theirs."""
        for timeout, queue in self._queues.items():
            while queue and queue[0].done():
                queue.popleft()
            if len(queue) > self._tidy_at.get(timeout, _TIDY_FROM):
                # One caller who waits long must not keep everybody who came later and has gone.
                waiting = [caller for caller in queue if not caller.done()]
                queue.clear()
                queue.extend(waiting)
                self._tidy_at[timeout] = max(_TIDY_FROM, 2 * len(queue))
        while self._odd and self._odd[0][2].done():
            heappop(self._odd)
        if len(self._odd) > self._tidy_odd_at:
            self._odd = [odd for odd in self._odd if not odd[2].done()]
            heapify(self._odd)
            self._tidy_odd_at = max(_TIDY_FROM, 2 * len(self._odd))

    def _sweep(self, timeout: float) -> None:
        queue = self._queues[timeout]
        now = self._loop.time()
        while queue and (queue[0].done() or queue[0].deadline <= now):
            caller = queue.popleft()
            if not caller.done():
                self._expire(caller)
        if queue:
            self._loop.call_at(queue[0].deadline, self._sweep, timeout)
        else:
            del self._queues[timeout]
            self._tidy_at.pop(timeout, None)

    def _add_odd(self, caller: Caller) -> None:
        heappush(self._odd, (caller.deadline, next(self._numbers), caller))
        if self._timer is None or caller.deadline < self._timer.when():
            self._wake_at(caller.deadline)

    def _wake_at(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(deadline, self._sweep_odd)

    def _sweep_odd(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._odd and (self._odd[0][2].done() or self._odd[0][0] <= now):
            caller = heappop(self._odd)[2]
            if not caller.done():
                self._expire(caller)
        if self._odd:
            self._wake_at(self._odd[0][0])
