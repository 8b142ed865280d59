"""Who waits for a connection: in a queue with so many places, or in line outside it. No I/O, no clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from farebox._queue import Caller, Share, Unit
from farebox.errors import FareboxError

_LOOKED_AT_FOR_A_REFUSAL: Final = 100


class Line:
    """Callers and units in the order they came; a connection takes batches and other statements in turn.

    Whoever stands outside is a future and nothing more: tickets are encoded when there is a place for them.
    """

    def __init__(self, shares: Sequence[Share], places: int) -> None:
        self._shares = list(shares)
        self._places = places
        self._ready: deque[Unit] = deque()
        self._outside: deque[Caller] = deque()
        self._shares_first = True
        self._refused = 0
        self.waiting = 0  # places taken

    @property
    def full(self) -> bool:
        """Whether a further caller would have to stand outside."""
        return self.waiting >= self._places

    @property
    def statements(self) -> int:
        """How many statements would carry everybody in the queue."""
        return len(self._ready) + sum(-(-len(share.waiting) // share.limit) for share in self._shares)

    def enter(self, caller: Caller) -> bool:
        """Add a caller; whether a full batch came of it.

        Raises `InvalidRequestError` when there is a place and its ticket has no JSON form.
        """
        if self.full or self._outside:
            self._outside.append(caller)
        else:
            self._seat(caller)
        way = caller.way
        return isinstance(way, Share) and len(self._outside or way.waiting) % way.limit == 0

    def put_back(self, unit: Unit) -> None:
        """Add a unit that was sent before: its callers have waited already and need no place."""
        self._ready.append(unit)
        self.waiting += len(unit.callers)

    def admit(self) -> bool:
        """Let in from outside as many as have a place; whether anybody came in."""
        admitted = False
        while self._outside and not self.full:
            caller = self._outside.popleft()
            if not caller.done():
                try:
                    self._seat(caller)
                    admitted = True
                except FareboxError as error:
                    caller.fail(error)
                except Exception as error:  # the application's, from a mapping of its own making
                    caller.set_exception(error)
        return admitted

    def next(self, *, any_size: bool) -> Unit | None:
        """What a connection takes next; a batch that is not full only with `any_size`."""
        self._shares_first = not self._shares_first
        if self._shares_first:
            return self._next_batch(any_size) or self._next_ready()
        return self._next_ready() or self._next_batch(any_size)

    def everybody(self) -> list[Caller]:
        """In the queue and outside."""
        callers = [caller for unit in self._ready for caller in unit.callers]
        for share in self._shares:
            callers.extend(share.waiting)
        callers.extend(self._outside)
        return callers

    def purge(self) -> None:
        """Drop the callers who do not wait any more."""
        for share in self._shares:
            self.waiting -= share.purge()
        for _ in range(len(self._ready)):
            unit = self._ready.popleft()
            if all(caller.done() for caller in unit.callers):
                self.waiting -= len(unit.callers)
            else:
                self._ready.append(unit)
        self.admit()

    def make_room(self) -> bool:
        """Whether a place came free of somebody who does not wait any more.

        Looking through everybody at each refusal would cost a busy client more than its work.
        """
        self._refused += 1
        if self._refused * _LOOKED_AT_FOR_A_REFUSAL < self.waiting:
            return False
        self._refused = 0
        self.purge()
        return not self.full

    def clear(self) -> None:
        """Drop everybody."""
        self._ready.clear()
        for share in self._shares:
            share.waiting.clear()
        self._outside.clear()
        self.waiting = 0

    def _seat(self, caller: Caller) -> None:
        if isinstance(caller.way, Share):
            caller.encode()
            caller.way.waiting.append(caller)
        else:
            self._ready.append(Unit(caller.way, [caller], None))
        self.waiting += 1

    def _next_batch(self, any_size: bool) -> Unit | None:
        for share in tuple(self._shares):
            while share.full or (share.waiting and any_size):
                callers, places = share.take()
                self.waiting -= places
                if callers:
                    # To the end of the list: one kind of call must not hold up the other.
                    self._shares.remove(share)
                    self._shares.append(share)
                    return Unit.shared(share, callers)
        return None

    def _next_ready(self) -> Unit | None:
        while self._ready:
            unit = self._ready.popleft()
            self.waiting -= len(unit.callers)
            callers = [caller for caller in unit.callers if not caller.done()]
            if callers:
                return unit if len(callers) == len(unit.callers) else unit.again(callers)
        return None
