"""Reads from a replica, with the primary behind it. Nothing that decides a creation comes through here."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, TypeVar

from farebox._queue import Patience
from farebox._scheduler import Scheduler
from farebox._wire import NotReplayedError
from farebox.calls import WRITTEN, Call
from farebox.errors import ConfigurationError, NotMigratedError, TransientError
from farebox.options import Consistency

R = TypeVar("R")

# A replica that failed is left alone for so long; reads go to the primary meanwhile.
REST_SECONDS: Final = 5.0
# A replica that hangs must leave time for the primary.
_SHARE_OF_TIME: Final = 0.3
_FIRST_PAUSE: Final = 0.002


class Reader:
    """Sends reads where they belong: `replica` may be None."""

    def __init__(
        self, primary: Scheduler, replica: Scheduler | None, patience: Patience, replica_wait: float
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._primary = primary
        self._replica = replica
        self._patience = patience
        self._wait = replica_wait
        self._rests_until = 0.0
        self._seen_writes = 0
        self._position: int | None = None

    async def run(
        self, call: Call[R], parameters: Sequence[bytes | None], consistency: Consistency
    ) -> list[R]:
        """The rows' models, from the replica where that is asked for and possible."""
        replica = self._replica
        if replica is None or consistency == "primary" or self._loop.time() < self._rests_until:
            return await self._primary.run(call, parameters, self._patience)
        timeout, start = self._patience.timeout, self._loop.time()
        # Not the replica's fault if the primary cannot tell: others can read there all the same.
        position = await self._own_writes() if consistency == "own_writes" else None
        share = None
        if timeout is not None:
            share = min(timeout * _SHARE_OF_TIME, timeout - (self._loop.time() - start))
        patience = replace(self._patience, attempts=1, timeout=share)
        try:
            return await self._when_replayed(replica, call, parameters, patience, position)
        except NotReplayedError:
            pass
        except (TransientError, ConfigurationError, NotMigratedError):
            self._rests_until = self._loop.time() + REST_SECONDS
        rest = None if timeout is None else timeout - (self._loop.time() - start)
        return await self._primary.run(call, parameters, replace(self._patience, timeout=rest))

    async def _own_writes(self) -> int | None:
        """A position in the log behind everything this client has written.

        Asked for only after new writes.
        """
        writes = self._primary.writes
        if writes != self._seen_writes:
            position = (await self._primary.run(WRITTEN, (), self._patience))[0]
            self._position = max(position, self._position or 0)
            self._seen_writes = writes
        return self._position

    async def _when_replayed(
        self,
        replica: Scheduler,
        call: Call[R],
        parameters: Sequence[bytes | None],
        patience: Patience,
        position: int | None,
    ) -> list[R]:
        wait = self._wait if patience.timeout is None else min(self._wait, patience.timeout)
        until = self._loop.time() + wait
        pause = _FIRST_PAUSE
        while True:
            try:
                return await replica.run(call, parameters, patience, position=position)
            except NotReplayedError as error:
                if error.for_good or self._loop.time() + pause > until:
                    raise
            await asyncio.sleep(pause)
            pause *= 2
