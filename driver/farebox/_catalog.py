"""Look-ups of companies, routes and codes, cached for what applications show before they sell.

An entry lives for the time limit at most, so lost notifications cost freshness and nothing else. NOTIFY
drops a company's entries when something of it changes; whenever the listener had no connection,
everything is dropped. The cache never decides a sale: the database does. What was not found is not
cached.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, defaultdict
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import psycopg

from farebox import calls
from farebox._dsn import Target
from farebox._queue import Patience
from farebox._wire import connect, is_pooled
from farebox.errors import map_error
from farebox.events import Change, Observer

T = TypeVar("T")

_LEAST_PAUSE: Final = 0.05

Key = tuple[str, ...]
"""The company's id, then what is looked up."""


class Catalog:
    """The cache of one client on one event loop, and the listener that keeps it fresh."""

    def __init__(
        self, target: Target, observer: Observer, patience: Patience, *, ttl: float, size: int
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._target = target
        self._observer = observer
        self._patience = patience
        self._ttl = ttl
        self._size = size
        self._entries: OrderedDict[Key, tuple[float, Any]] = OrderedDict()
        self._of_company: defaultdict[str, set[Key]] = defaultdict(set)
        self._pending: dict[Key, asyncio.Task[Any]] = {}
        self._changes = 0
        self._listener: asyncio.Task[None] | None = None
        self.listening = False

    async def look_up(self, key: Key, fetch: Callable[[], Awaitable[T | None]], *, fresh: bool) -> T | None:
        """The cached value, or what `fetch` returns; callers who ask at the same time share one fetch."""
        if self._ttl == 0:
            return await fetch()
        if self._listener is None:
            self._listener = self._loop.create_task(self._listen())
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
        self._changes += 1
        self._pending.clear()
        if company_id == "*":
            self._entries.clear()
            self._of_company.clear()
        for key in self._of_company.pop(company_id, ()):
            del self._entries[key]

    async def close(self) -> None:
        """Stop listening."""
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.wait([self._listener])

    async def _fetch(self, key: Key, fetch: Callable[[], Awaitable[T | None]]) -> T | None:
        changes = self._changes
        value = await fetch()
        # Something changed while the answer was under way: it may be from before, so nobody else gets it.
        if value is not None and changes == self._changes:
            self._entries[key] = (self._loop.time() + self._ttl, value)
            self._entries.move_to_end(key)
            self._of_company[key[0]].add(key)
            if len(self._entries) > self._size:
                oldest, _ = self._entries.popitem(last=False)
                self._of_company[oldest[0]].discard(oldest)
        return value

    def _fetched(self, key: Key, task: asyncio.Task[Any]) -> None:
        if self._pending.get(key) is task:
            del self._pending[key]
        if not task.cancelled():
            task.exception()  # Seen, even if every caller has gone.

    async def _listen(self) -> None:
        failures = 0
        while True:
            try:
                async with await connect(self._target) as listener:
                    if await is_pooled(listener):
                        return  # A pooler passes no notifications on; the time limit does the work.
                    await listener.execute(calls.LISTEN)
                    failures = 0
                    self.forget("*")  # What changed before now was announced to nobody.
                    self.listening = True
                    self._observer.connection("opened", self._target)
                    async for notice in listener.notifies():
                        self.forget(notice.payload)
            except psycopg.Error as error:
                failures += 1
                if failures == 1:
                    what: Change = "lost" if self.listening else "refused"
                    self._observer.connection(what, self._target, map_error(error))
            except asyncio.CancelledError:
                if self.listening:
                    self._observer.connection("closed", self._target)
                raise
            finally:
                self.listening = False
            self.forget("*")
            await asyncio.sleep(max(_LEAST_PAUSE, self._patience.delay(failures)))
