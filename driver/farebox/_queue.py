"""Who waits for what: callers, the units they travel in, and the queues that callers share. No I/O, no clock.

A unit is one statement in its own transaction. It carries one caller with a statement of its own, or
many callers whose elements were merged into one batch; each caller has its own future, deadline and
count of attempts.
"""

from __future__ import annotations

import asyncio
import copy
import math
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from numbers import Real
from typing import Any, Final

from farebox._rows import Rows, renumber
from farebox.calls import Call
from farebox.encoding import dump_one, join, split
from farebox.errors import DatabaseError, DataError, FareboxError, TransientError, UsageError
from farebox.models import TicketRequest

# A batch of 1 MB requests must not grow to a gigabyte; PostgreSQL takes no more in one value.
MAX_BATCH_BYTES: Final = 4 * 1024 * 1024


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, Real))  # in this order: the last one costs most


@dataclass(frozen=True, slots=True)
class Patience:
    """How long and how often: `timeout` seconds in all (None: no limit), `attempts` tries, backoff.

    The delay before try n + 1 is drawn evenly from 0 to `backoff` x 2^(n-1) seconds, at most
    `backoff_limit`.
    """

    timeout: float | None = 30.0
    attempts: int = 3
    backoff: float = 0.1
    backoff_limit: float = 2.0

    def __post_init__(self) -> None:
        # What is wrong here would fail later, and not only for the call that it came with.
        if self.timeout is not None and (not _is_number(self.timeout) or math.isnan(self.timeout)):
            # No clock passes NaN, and an event loop whose timers it is among does not rest any more.
            raise UsageError("timeout is not a number")
        if not (_is_number(self.attempts) and self.attempts >= 1):
            raise UsageError("attempts must be at least 1")

    def delay(self, failures: int) -> float:
        """Seconds to wait after so many failures."""
        return random.uniform(0.0, min(self.backoff_limit, self.backoff * 2.0 ** min(failures - 1, 30)))


class Part:
    """A part of a list, in a statement of its own: so many elements, the first one being number `first`.

    What a router's lost shard has of them is asked again; the rest of the answer waits in `models` meanwhile.
    """

    __slots__ = ("_numbers", "_places", "models")

    def __init__(self, elements: int, first: int = 1) -> None:
        self._places: Sequence[int] = range(elements)
        self._numbers = range(first, first + elements)
        self.models: list[Any] = []

    @property
    def elements(self) -> int:
        """How many the next statement asks about."""
        return len(self._places)

    def take(self, models: list[Any]) -> list[int]:
        """Keep what a statement answered; which of its elements, counted from 0, are to be asked again."""
        self.models = self.models or list(models)
        for place, model in zip(self._places, models, strict=True):
            self.models[place] = model
        renumber(models, map(self._numbers.__getitem__, self._places))
        lost = [number for number, model in enumerate(models) if model.is_lost]
        self._places = [self._places[number] for number in lost]
        return lost


class Caller(asyncio.Future[Any]):
    """One waiting call, and the future it waits for: by the ten thousand, one object less counts.

    `way` is what it waits for: a batch shared with others, which its `ticket` joins when it has a place and
    is one element's JSON, its `payload`; or a statement of its own, whose parameters the `payload` is, and
    which may be a `part` of a longer list.
    `position` is a place in the write-ahead log that the server must have replayed for its answer to count.
    """

    __slots__ = (
        "attempts",
        "deadline",
        "failures",
        "part",
        "payload",
        "position",
        "queued_at",
        "ticket",
        "unit",
        "way",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        ticket: Any = None,
        payload: bytes | tuple[bytes | None, ...] = b"",
    ) -> None:
        super().__init__(loop=loop)
        self.way: Share | Call[Any]  # from here to `queued_at`: when it gets in line
        self.attempts: int
        self.deadline = math.inf
        self.queued_at: float
        self.ticket: Any = ticket
        self.payload = payload
        self.failures = 0
        self.part: Part | None = None
        self.position: int | None = None
        self.unit: Unit | None = None

    def encode(self) -> None:
        """Make the payload of the ticket. Raises `InvalidRequestError` for one that has no JSON form."""
        ticket, self.ticket = self.ticket, None
        self.payload = dump_one(TicketRequest, ticket)

    def may_wait(self, until: float) -> bool:
        """Whether there is an attempt left, and time for it."""
        return self.failures < self.attempts and until < self.deadline

    def fail(self, error: FareboxError) -> None:
        """Give the caller an error object of its own: tracebacks grow on the one that is raised.

        Of a list whose shards did not all answer what is known comes back; it says what is not.
        """
        if self.part is not None and self.part.models and isinstance(error, TransientError):
            self.succeed(self.part.models)
        self.unit = None
        if not self.done():
            self.set_exception(copy.copy(error))

    def succeed(self, result: object) -> None:
        """Give the caller its result, if it still waits."""
        self.unit = None  # Else the two would hold each other until Python looks for cycles.
        if not self.done():
            self.set_result(result)


class Share:
    """A queue whose callers travel together: `many` takes a JSON array, `one` (if any) a single element."""

    __slots__ = ("limit", "many", "one", "waiting")

    def __init__(self, many: Call[Any], one: Call[Any] | None, limit: int) -> None:
        self.many = many
        self.one = one
        self.limit = limit
        self.waiting: deque[Caller] = deque()

    @property
    def full(self) -> bool:
        """Whether a batch of the greatest size could leave."""
        return len(self.waiting) >= self.limit

    def purge(self) -> int:
        """Drop the callers who do not wait any more; how many places came free."""
        before = len(self.waiting)
        self.waiting = deque(caller for caller in self.waiting if not caller.done())
        return before - len(self.waiting)

    def take(self) -> tuple[list[Caller], int]:
        """The next batch of callers who still wait (maybe none), and how many places came free."""
        callers: list[Caller] = []
        size = taken = 0
        while self.waiting and len(callers) < self.limit:
            caller = self.waiting[0]
            if not caller.done():
                size += len(caller.payload)
                if callers and size > MAX_BATCH_BYTES:
                    break
                callers.append(caller)
            self.waiting.popleft()
            taken += 1
        return callers, taken


class Unit:
    """One statement to send: the callers it answers and how often it failed."""

    __slots__ = ("call", "callers", "lost", "share")

    def __init__(self, call: Call[Any], callers: list[Caller], share: Share | None) -> None:
        self.call = call
        self.lost: list[Caller] = []
        self.callers = callers
        self.share = share
        for caller in callers:
            caller.unit = self

    @classmethod
    def shared(cls, share: Share, callers: list[Caller]) -> Unit:
        """A batch for these callers; a single one takes the short path."""
        call = share.one if len(callers) == 1 and share.one is not None else share.many
        return cls(call, callers, share)

    def again(self, callers: list[Caller]) -> Unit:
        """The same for a part of the callers."""
        return Unit(self.call, callers, None) if self.share is None else Unit.shared(self.share, callers)

    @property
    def failures(self) -> int:
        """How often it failed, by the caller who has seen most."""
        return max(caller.failures for caller in self.callers)

    @property
    def parameters(self) -> tuple[bytes | None, ...]:
        """The statement's parameters."""
        payload = self.callers[0].payload
        if not isinstance(payload, bytes):
            return payload
        if self.share is not None and self.call is self.share.one:
            return (payload,)
        return (join(caller.payload for caller in self.callers if isinstance(caller.payload, bytes)),)

    def deliver(self, rows: Rows) -> list[Any]:
        """Give each caller its rows; returns them all as models.

        Callers whose shard did not answer get nothing yet: they are in `lost` then. Raises
        `DatabaseError` when the rows are not one for each element, in order: better an error than a
        passenger with another's ticket.
        """
        alone = self.callers[0] if self.share is None else None
        part = None if alone is None else alone.part
        elements = len(self.callers) if part is None else part.elements
        if (alone is None or part is not None) and rows.column("ordinal") != list(range(1, elements + 1)):
            raise DatabaseError(f"{self.call.function} did not answer one row for each element")
        models = self.call.load(rows)
        if alone is None:
            renumber(models, repeat(1))
            for caller, model in zip(self.callers, models, strict=True):
                if model.is_lost:
                    self.lost.append(caller)
                else:
                    caller.succeed(model)
        elif part is None:
            alone.succeed(models)
        else:
            self._deliver_part(alone, part, models)
        return models

    def _deliver_part(self, caller: Caller, part: Part, models: list[Any]) -> None:
        batch = self.parameters[0]
        lost = part.take(models)
        elements = split(batch) if lost and batch is not None else None
        if elements is None:
            caller.succeed(part.models)
        else:
            caller.payload = (join(elements[number] for number in lost),)
            self.lost = [caller]

    def halves(self) -> list[Unit]:
        """The same callers in two units, to find out whose element it is that fails."""
        middle = len(self.callers) // 2
        return [self.again(self.callers[:middle]), self.again(self.callers[middle:])]

    def may_be_split(self, error: FareboxError) -> bool:
        """Whether `error` may be the fault of one element; a statement time-out would only be repeated.

        Also where the answer did not fit the batch: asked again, the others find their tickets.
        """
        return (
            len(self.callers) > 1
            and isinstance(error, DataError | DatabaseError)
            and error.sqlstate != "57014"
        )

    def to_retry(self, error: FareboxError, now: float, patience: Patience) -> tuple[Unit, float] | None:
        """Counts a failure; fails the callers who are out of attempts or time.

        Returns the unit of the others and the delay.
        """
        waiting = [caller for caller in self.callers if not caller.done()]
        for caller in waiting:
            caller.failures += 1
        if not waiting:
            return None
        delay = patience.delay(max(caller.failures for caller in waiting))
        patient: list[Caller] = []
        for caller in waiting:
            if isinstance(error, TransientError) and caller.may_wait(now + delay):
                patient.append(caller)
            else:
                caller.fail(error)
        return (self.again(patient), delay) if patient else None
