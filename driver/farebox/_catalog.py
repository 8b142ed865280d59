"""Look-ups of companies, routes and codes, cached for what applications show before they sell.

An entry lives for the time limit at most, so lost notifications cost freshness and nothing else. NOTIFY
drops a company's entries when something of it changes; when the listener has lost its connection, or has a
new one, everything is dropped. The cache never decides a sale: the database does. What was not found is not
cached.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, defaultdict
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from farebox import calls
from farebox._dsn import Target
from farebox._listener import Listener
from farebox._queue import Patience
from farebox.events import Observer

T = TypeVar("T")

Key = tuple[str, ...]
"""The company's id, then what is looked up."""


class Catalog:
    """The cache of one client on one event loop, and the listener that keeps it fresh."""

    def __init__(
        self, target: Target, observer: Observer, patience: Patience, *, ttl: float, size: int
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._ttl = ttl
        self._size = size
        self._entries: OrderedDict[Key, tuple[float, Any]] = OrderedDict()
        self._of_company: defaultdict[str, set[Key]] = defaultdict(set)
        self._pending: dict[Key, asyncio.Task[Any]] = {}
        self.listener = Listener(
            calls.LISTEN, target, patience, observer, heard=self.forget, missed=partial(self.forget, "*")
        )

    async def look_up(self, key: Key, fetch: Callable[[], Awaitable[T | None]], *, fresh: bool) -> T | None:
        """The cached value, or what `fetch` returns; callers who ask at the same time share one fetch."""
        if self._ttl == 0:
            return await fetch()
        self.listener.start()
        expires, value = self._entries.get(key, (0.0, None))
        if not fresh and self._loop.time() < expires:
            self._entries.move_to_end(key)
            known: T | None = value
            return known
        task = None if fresh else self._pending.get(key)
        if task is None:
            task = self._pending[key] = self._loop.create_task(self._fetch(key, fetch))
            task.add_done_callback(lambda done: self._fetched(key, done))
        # Shielded: one caller's cancellation must not take the answer from the others.
        result: T | None = await asyncio.shield(task)
        return result

    def forget(self, company_id: str) -> None:
        """Drop what is known of a company; `*` stands for all of them."""
        self._pending.clear()  # What is under way may be from before: nobody else gets it.
        if company_id == "*":
            self._entries.clear()
            self._of_company.clear()
        for key in self._of_company.pop(company_id, ()):
            del self._entries[key]

    async def _fetch(self, key: Key, fetch: Callable[[], Awaitable[T | None]]) -> T | None:
        value = await fetch()
        # Of two for the same thing the later one counts, whichever is answered first.
        if value is not None and self._pending.get(key) is asyncio.current_task():
            self._entries[key] = (self._loop.time() + self._ttl, value)
            self._entries.move_to_end(key)
            self._of_company[key[0]].add(key)
            if len(self._entries) > self._size:
                oldest, _ = self._entries.popitem(last=False)
                of_company = self._of_company[oldest[0]]
                of_company.discard(oldest)
                if not of_company:
                    del self._of_company[oldest[0]]
        return value

    def _fetched(self, key: Key, task: asyncio.Task[Any]) -> None:
        if self._pending.get(key) is task:
            del self._pending[key]
        if not task.cancelled():
            task.exception()  # Seen, even if every caller has gone.
