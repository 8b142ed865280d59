"""The importer by itself: order, memory, and what happens when a batch fails."""

import json
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import pytest

from farebox.cli.importer import MAX_BATCH_BYTES, Importer, Rejects
from farebox.cli.payment_file import PaymentFile
from farebox.errors import TransientError
from farebox.models import TicketOutcome


class Recorder:
    """Stands where the driver's `create_tickets` is; keeps the batches it is given."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.batches: list[list[int]] = []
        self.sizes: list[int] = []
        self._fail_at = fail_at

    def __call__(self, elements: Sequence[bytes]) -> list[TicketOutcome]:
        self.batches.append([json.loads(element)["n"] for element in elements])
        self.sizes.append(sum(map(len, elements)))
        if len(self.batches) == self._fail_at:
            raise TransientError("gone")
        return [
            TicketOutcome(
                ordinal=number,
                monime_transaction_id=None,
                outcome="rejected",
                reason="transaction_id_invalid",
                ticket_id=None,
                existing_ticket_id=None,
                differing=None,
                transaction_recorded=None,
            )
            for number in range(1, len(elements) + 1)
        ]


def write(path: Path, lines: int, pad: int = 0) -> PaymentFile:
    with path.open("w") as file:
        for number in range(lines):
            file.write(json.dumps({"n": number, "pad": "x" * pad}) + "\n")
    return PaymentFile(str(path))


def test_batches_are_sent_in_the_order_of_the_file(tmp_path: Path) -> None:
    create = Recorder()
    with write(tmp_path / "p.jsonl", 1234) as source:
        tally = Importer(create, batch_size=100).run(source)
    assert [number for batch in create.batches for number in batch] == list(range(1234))
    assert {len(batch) for batch in create.batches} == {100, 34}
    assert tally.lines == tally.failed == 1234


def test_nothing_is_sent_after_a_batch_that_failed(tmp_path: Path) -> None:
    create = Recorder(fail_at=3)
    importer = Importer(create, batch_size=10)
    with write(tmp_path / "p.jsonl", 1000) as source, pytest.raises(TransientError):
        importer.run(source)
    assert len(create.batches) == 3
    assert importer.tally.lines == importer.tally.last_line == 20


def test_a_batch_of_huge_lines_is_sent_early(tmp_path: Path) -> None:
    create = Recorder()
    pad = MAX_BATCH_BYTES // 4
    with write(tmp_path / "p.jsonl", 9, pad) as source:
        Importer(create, batch_size=10_000).run(source)
    assert len(create.batches) > 1
    assert max(create.sizes) <= MAX_BATCH_BYTES + pad + 100


def test_memory_does_not_grow_with_the_import(tmp_path: Path) -> None:
    peaks: list[int] = []
    for lines in (2_000, 20_000):
        with write(tmp_path / "p.jsonl", lines) as source, Rejects(tmp_path / "r.jsonl") as rejects:
            tracemalloc.start()
            Importer(lambda elements: Recorder()(elements), batch_size=100, rejects=rejects).run(source)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]
