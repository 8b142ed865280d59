"""What the client tells about its work: log lines of `logging`, and events for a hook.

Lines and events carry numbers, names of functions, outcomes and ids of payments and tickets, never a
phone number, an OTP, a password or a request. Each record has its fields as a dictionary in the
attribute `farebox`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from farebox.errors import FareboxError
from farebox.models import TicketOutcome

log = logging.getLogger("farebox")

Change = Literal["opened", "lost", "refused", "closed"]


@dataclass(frozen=True, slots=True)
class BatchEvent:
    """One statement was answered by the server `target`.

    `size` counts callers (shared batches) or 1; `waited` is how long the first of them stood in the
    queue and `duration` how long the answer took, both in seconds; `outcomes` counts the rows by
    outcome; `error` is the SQLSTATE or the class of a failure.
    """

    target: str
    function: str
    size: int
    attempt: int
    waited: float
    duration: float
    rows: int
    outcomes: Mapping[str, int] = field(default_factory=dict[str, int])
    error: str | None = None


@dataclass(frozen=True, slots=True)
class RetryEvent:
    """A statement failed for a moment and is sent again after `delay` seconds for `size` callers."""

    function: str
    size: int
    attempt: int
    delay: float
    error: str


@dataclass(frozen=True, slots=True)
class ConnectionEvent:
    """A connection was opened, lost, refused or (by the client) closed; `target` has no password."""

    what: Change
    target: str
    error: str | None = None


Event = BatchEvent | RetryEvent | ConnectionEvent
Hook = Callable[[Event], None]


class Observer:
    """Writes the log lines and calls the hook.

    A hook that raises is reported once each time and harms nobody.
    """

    __slots__ = ("_hook",)

    def __init__(self, hook: Hook | None) -> None:
        self._hook = hook

    @property
    def wants_batches(self) -> bool:
        """Whether anybody looks at batches: counting outcomes costs."""
        return self._hook is not None or log.isEnabledFor(logging.INFO)

    def batch(
        self,
        target: object,
        function: str,
        size: int,
        attempt: int,
        waited: float,
        duration: float,
        rows: Sequence[Any],
        error: FareboxError | None,
    ) -> None:
        """A statement was answered with `rows` (models) or an error."""
        outcomes = Counter(row.outcome for row in rows if hasattr(row, "outcome"))
        event = BatchEvent(
            str(target),
            function,
            size,
            attempt,
            waited,
            duration,
            len(rows),
            outcomes,
            None if error is None else name(error),
        )
        shown = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
        self._tell(
            event,
            logging.DEBUG,
            "%s: %d callers, attempt %d, waited %.1f ms, took %.1f ms: %s",
            function,
            size,
            attempt,
            waited * 1e3,
            duration * 1e3,
            event.error or shown or f"{len(rows)} rows",
        )
        if outcomes["conflict"] and log.isEnabledFor(logging.INFO):
            for row in rows:
                if isinstance(row, TicketOutcome) and row.outcome == "conflict":
                    fields = row.model_dump(
                        mode="json", include={"monime_transaction_id", "existing_ticket_id", "differing"}
                    )
                    log.info(
                        "conflict: payment %r has ticket %s with another %s",
                        row.monime_transaction_id,
                        row.existing_ticket_id,
                        ", ".join(row.differing or ()),
                        extra={"farebox": {"event": "conflict"} | fields},
                    )

    def retry(self, function: str, size: int, attempt: int, delay: float, error: FareboxError) -> None:
        """A statement will be sent again."""
        event = RetryEvent(function, size, attempt, delay, name(error))
        self._tell(
            event,
            logging.WARNING,
            "%s: attempt %d failed (%s), again in %.0f ms for %d callers",
            function,
            attempt,
            error,
            delay * 1e3,
            size,
        )

    def connection(self, what: Change, target: object, error: FareboxError | None = None) -> None:
        """A connection came or went."""
        event = ConnectionEvent(what, str(target), None if error is None else name(error))
        if error is None:
            self._tell(event, logging.DEBUG, "connection to %s %s", target, what)
        else:
            self._tell(event, logging.WARNING, "connection to %s %s: %s", target, what, error)

    def _tell(self, event: Event, level: int, message: str, *arguments: object) -> None:
        if log.isEnabledFor(level):
            fields = {"event": type(event).__name__.removesuffix("Event").lower()} | asdict(event)
            if isinstance(event, BatchEvent):
                fields["outcomes"] = dict(event.outcomes)  # `asdict` counts the items of a `Counter`
            log.log(level, message, *arguments, extra={"farebox": fields})
        if self._hook is not None:
            try:
                self._hook(event)
            except Exception:
                log.exception("the event hook failed")


def name(error: FareboxError) -> str:
    """The SQLSTATE, or the name of the class where there is none."""
    return error.sqlstate or type(error).__name__
