"""Imports a stream of payments: a batch is on its way while the next is read; counts, and a file of rejects.

Safe to repeat: a payment that has its ticket answers `duplicate`, so a run that was cut off is run again.
Batches are sent one after the other, in the file's order: the first of two payments with one id wins.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from farebox.cli.payment_file import MalformedLine, PaymentFile, PaymentLine
from farebox.models import TicketOutcome

MAX_BATCH_BYTES = 8 * 1024 * 1024
"""A batch is sent when it is this big, however few its lines: memory stays bounded."""

BATCHES_AHEAD = 2
"""One batch at the server, one waiting for it, while the next is read."""

Creator = Callable[[Sequence[bytes]], Sequence[TicketOutcome]]
"""Takes payments as JSON, returns one outcome for each, in order."""


@dataclass(slots=True)
class Tally:
    """What became of the lines so far. `counts` has (outcome, reason); an outcome more is `malformed`."""

    counts: Counter[tuple[str, str | None]] = field(default_factory=Counter[tuple[str, str | None]])
    unrecorded: int = 0
    last_line: int = 0
    seconds: float = 0.0

    def __getitem__(self, outcome: str) -> int:
        return sum(count for (each, _), count in self.counts.items() if each == outcome)

    @property
    def lines(self) -> int:
        """All lines that were settled."""
        return self.counts.total()

    @property
    def failed(self) -> int:
        """Lines without a ticket."""
        return self.lines - self["created"] - self["duplicate"]

    @property
    def rate(self) -> float:
        """Lines a second."""
        return self.lines / self.seconds if self.seconds else 0.0


class Rejects:
    """The lines that got no ticket, as JSON lines. They hold phones and OTPs: for the owner's eyes only."""

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self._file = os.fdopen(descriptor, "w", encoding="utf-8")
        if path.is_file():
            os.fchmod(descriptor, 0o600)

    def __enter__(self) -> Rejects:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write_outcome(self, line: PaymentLine, outcome: TicketOutcome) -> None:
        """A payment that was refused, with the payment as it came."""
        self._write(
            {
                "line": line.number,
                "outcome": outcome.outcome,
                "reason": outcome.reason,
                "differing": outcome.differing,
                "existing_ticket_id": outcome.existing_ticket_id and str(outcome.existing_ticket_id),
            },
            "payment",
            line.original,
        )

    def write_malformed(self, line: MalformedLine) -> None:
        """A line that was no payment at all, with its text as it came."""
        head = {"line": line.number, "outcome": "malformed", "reason": line.reason, "detail": line.detail}
        self._write(head, "raw", json.dumps(line.raw))

    def flush(self) -> None:
        """Hand what was written to the operating system."""
        self._file.flush()

    def _write(self, head: Mapping[str, object], key: str, value: str) -> None:
        self._file.write(f'{json.dumps(dict(head))[:-1]}, "{key}": {value}}}\n')


@dataclass(slots=True)
class _Batch:
    """Consecutive lines, and how far the file was read when the last of them was."""

    lines: list[PaymentLine | MalformedLine] = field(default_factory=list[PaymentLine | MalformedLine])
    size: int = 0
    position: int = 0

    @property
    def payments(self) -> list[PaymentLine]:
        return [line for line in self.lines if isinstance(line, PaymentLine)]


class Importer:
    """One import. `tally` is right also after `run` raised; `on_progress` gets the bytes read so far."""

    def __init__(
        self,
        create: Creator,
        *,
        batch_size: int,
        rejects: Rejects | None = None,
        on_progress: Callable[[Tally, int], None] | None = None,
    ) -> None:
        self.tally = Tally()
        self._create = create
        self._batch_size = batch_size
        self._rejects = rejects
        self._on_progress = on_progress
        self._stopped = False

    def run(self, source: PaymentFile) -> Tally:
        """Import everything. Raises what the database raises; nothing after the failed batch was sent."""
        started = time.monotonic()
        sent: deque[tuple[_Batch, Future[Sequence[TicketOutcome]]]] = deque()
        with ThreadPoolExecutor(1) as worker:
            try:
                for batch in self._batches(source):
                    sent.append((batch, worker.submit(self._send, batch)))
                    if len(sent) > BATCHES_AHEAD:
                        self._settle(*sent.popleft())
                while sent:
                    self._settle(*sent.popleft())
            except BaseException:
                self._stopped = True
                raise
            finally:
                self.tally.seconds = time.monotonic() - started
        return self.tally

    def _batches(self, source: PaymentFile) -> Iterator[_Batch]:
        batch = _Batch()
        for line in source:
            batch.lines.append(line)
            batch.size += len(line.element) if isinstance(line, PaymentLine) else len(line.raw)
            if len(batch.lines) >= self._batch_size or batch.size >= MAX_BATCH_BYTES:
                batch.position = source.position
                yield batch
                batch = _Batch()
        if batch.lines:
            batch.position = source.position
            yield batch

    def _send(self, batch: _Batch) -> Sequence[TicketOutcome]:
        if self._stopped:
            raise CancelledError
        try:
            payments = batch.payments
            return self._create([line.element.encode() for line in payments]) if payments else ()
        except BaseException:
            self._stopped = True
            raise

    def _settle(self, batch: _Batch, answer: Future[Sequence[TicketOutcome]]) -> None:
        outcomes = iter(answer.result())
        for line in batch.lines:
            if isinstance(line, MalformedLine):
                self.tally.counts["malformed", line.reason] += 1
                if self._rejects:
                    self._rejects.write_malformed(line)
                continue
            outcome = next(outcomes)
            self.tally.counts[outcome.outcome, outcome.reason] += 1
            self.tally.unrecorded += outcome.ok and not outcome.transaction_recorded
            if self._rejects and not outcome.ok:
                self._rejects.write_outcome(line, outcome)
        self.tally.last_line = batch.lines[-1].number
        if self._rejects:
            self._rejects.flush()
        if self._on_progress:
            self._on_progress(self.tally, batch.position)
