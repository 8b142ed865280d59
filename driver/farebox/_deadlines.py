"""Deadlines of many calls for the price of few timers.

Calls with the same time-out expire in the order they were made, so one queue and one timer for each
distinct time-out is enough, and what is answered leaves the queue's head without a heap: a timer for
each of 10,000 calls would cost more than their batches.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from farebox._queue import Caller

_TIDY_FROM: Final = 2000


class Deadlines:
    """Calls `expire` for each caller who is still without an answer at its deadline."""

    def __init__(self, expire: Callable[[Caller], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._expire = expire
        self._queues: dict[float, deque[Caller]] = {}
        self._tidy_at: dict[float, int] = {}

    def add(self, caller: Caller, timeout: float) -> None:
        """Watch a caller whose deadline was set `timeout` seconds ahead when it came."""
        queue = self._queues.get(timeout)
        if queue is None:
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
