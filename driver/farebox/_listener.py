"""A connection that listens, kept up. What it hears are hints: without it all is right, only later."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import psycopg

from farebox._dsn import Target
from farebox._queue import Patience
from farebox._wire import connect, is_pooled
from farebox.errors import map_error
from farebox.events import Change, Observer

_LEAST_PAUSE: Final = 0.05
_END_SECONDS: Final = 5.0


class Listener:
    """Says `heard` for each notification.

    And `missed` where something may have been announced to nobody: when it begins to listen, and when it has
    lost its connection. A pooler passes no notifications on; behind one it ends.
    """

    def __init__(
        self,
        statement: str,
        target: Target,
        patience: Patience,
        observer: Observer,
        *,
        heard: Callable[[str], None],
        missed: Callable[[], None],
    ) -> None:
        self._statement = statement
        self._target = target
        self._patience = patience
        self._observer = observer
        self._heard = heard
        self._missed = missed
        self._task: asyncio.Task[None] | None = None
        self.listening = False

    def start(self) -> None:
        """Begin, if it has not begun."""
        if self._task is None:
            self._task = asyncio.create_task(self._listen())

    def stop(self) -> None:
        """End soon."""
        if self._task is not None:
            self._task.cancel()

    async def finish(self) -> None:
        """After `stop`: wait for the end, as long as the server may keep it."""
        if self._task is not None:
            await asyncio.wait([self._task], timeout=_END_SECONDS)

    async def _listen(self) -> None:
        failures = 0
        while True:
            connection: psycopg.AsyncConnection[Any] | None = None
            try:
                connection = await connect(self._target)
                if await is_pooled(connection):
                    return
                await connection.execute(self._statement.encode())
                failures = 0
                self.listening = True
                self._observer.connection("opened", self._target)
                self._missed()
                async for notice in connection.notifies():
                    self._heard(notice.payload)
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
                if self.listening:
                    self.listening = False
                    self._missed()
                if connection is not None:
                    await connection.close()
            await asyncio.sleep(max(_LEAST_PAUSE, self._patience.delay(failures)))
