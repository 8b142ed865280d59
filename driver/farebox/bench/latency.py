"""Latencies, kept as HdrHistograms of microseconds, three digits exact."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from hdrh.histogram import HdrHistogram

PERCENTILES: Final = (50.0, 95.0, 99.0, 99.9)

_MOST_US: Final = 3_600_000_000


class Latencies:
    """How long calls took."""

    def __init__(self, seconds: Iterable[float] = ()) -> None:
        self._histogram = HdrHistogram(1, _MOST_US, 3)
        for value in seconds:
            self.record(value)

    def record(self, seconds: float) -> None:
        """One more; an hour at most."""
        self._histogram.record_value(min(max(round(seconds * 1e6), 1), _MOST_US))

    @property
    def count(self) -> int:
        """How many."""
        return int(self._histogram.get_total_count())

    def percentile(self, share: float) -> float:
        """In seconds."""
        return float(self._histogram.get_value_at_percentile(share)) / 1e6

    def add(self, other: Latencies) -> None:
        """Those of another one too."""
        self._histogram.add(other._histogram)

    def curve(self) -> list[tuple[float, float]]:
        """(Percentile, seconds), denser towards the end, as far as there are values."""
        return [
            (item.percentile_level_iterated_to, item.value_iterated_to / 1e6)
            for item in self._histogram.get_percentile_iterator(2)
        ]

    def document(self) -> dict[str, Any]:
        """Counts and milliseconds for people, and the whole histogram in the format of HdrHistogram."""
        shown = {f"p{share:g}_ms": round(self.percentile(share) * 1e3, 3) for share in PERCENTILES}
        worst = {"max_ms": round(self.percentile(100) * 1e3, 3)}
        encoded: bytes = self._histogram.encode()
        return {"count": self.count, **shown, **worst, "hdrhistogram": encoded.decode()}
