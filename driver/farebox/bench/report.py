"""What was found: rates, latencies, whether it was right, and what it was measured on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from farebox.bench.latency import Latencies
from farebox.bench.place import connect, not_durable
from farebox.models import Violation

Point = tuple[float, float]

_SETTINGS: Final = (
    *("fsync", "full_page_writes", "synchronous_commit", "wal_sync_method", "wal_compression"),
    *("shared_buffers", "wal_buffers", "max_wal_size", "checkpoint_timeout", "commit_delay"),
    *("backend_flush_after", "autovacuum", "jit", "random_page_cost", "max_connections", "data_checksums"),
)


@dataclass(slots=True)
class Line:
    """One contender: a rate for each round, beside those of the one it is compared with."""

    name: str
    rates: list[float]
    base: list[float] | None = None
    unit: str = "tickets/s"

    @property
    def rate(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.rates)

    @property
    def ratios(self) -> list[float]:
        """Round by round, so that what slows the machine down slows both sides."""
        return [one / other for one, other in zip(self.rates, self.base or [], strict=True)]

    @property
    def ratio(self) -> float | None:
        """The median of these."""
        return statistics.median(self.ratios) if self.base else None

    def document(self) -> dict[str, Any]:
        """For programs."""
        return {
            "name": self.name,
            "unit": self.unit,
            "median": round(self.rate, 1),
            "rates": [round(rate, 1) for rate in self.rates],
            "ratio": round(self.ratio, 4) if self.ratio is not None else None,
            "ratios": [round(ratio, 4) for ratio in self.ratios] if self.base else None,
        }


@dataclass(frozen=True, slots=True)
class Check:
    """Something that has to be so, whatever the rate."""

    what: str
    expected: object
    found: object

    @property
    def ok(self) -> bool:
        """Whether it is."""
        return self.expected == self.found


@dataclass(slots=True)
class Report:
    """The outcome of one scenario.

    `base` names the contender the ratios are over. `over_time` is by contender (seconds since the start,
    tickets a second), `by_size` (tickets in the table, ratio or rate).
    """

    scenario: str
    parameters: Mapping[str, object]
    base: str = ""
    lines: list[Line] = field(default_factory=list[Line])
    latencies: dict[str, Latencies] = field(default_factory=dict[str, Latencies])
    over_time: dict[str, list[Point]] = field(default_factory=dict[str, list[Point]])
    by_size: dict[str, list[Point]] = field(default_factory=dict[str, list[Point]])
    facts: dict[str, object] = field(default_factory=dict[str, object])
    checks: list[Check] = field(default_factory=list[Check])
    violations: list[Violation] = field(default_factory=list[Violation])
    environment: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def ok(self) -> bool:
        """Whether the run was right; a fast wrong one is none."""
        return not self.violations and all(check.ok for check in self.checks)

    def verify(self, dsn: str, *, tickets: int | None = None) -> None:
        """Check every invariant of that database, and that it holds so many tickets."""
        with connect(dsn) as conn:
            rows = conn.execute("select invariant, subject, detail from farebox.verify()").fetchall()
            found = [Violation(invariant=row[0], subject=row[1], detail=row[2]) for row in rows]
            self.violations += found
            self.checks.append(Check("verify() finds", 0, len(found)))
            if tickets is not None:
                [(count,)] = conn.execute("select count(*) from farebox.tickets").fetchall()
                self.checks.append(Check("tickets in the table", tickets, count))

    def document(self) -> dict[str, Any]:
        """All of it, for programs."""
        return {
            "scenario": self.scenario,
            "parameters": dict(self.parameters),
            "environment": self.environment,
            "base": self.base or None,
            "lines": [line.document() for line in self.lines],
            "latencies": {name: latencies.document() for name, latencies in self.latencies.items()},
            "facts": self.facts,
            "over_time": {name: _rounded(points) for name, points in self.over_time.items()},
            "by_size": {name: _rounded(points) for name, points in self.by_size.items()},
            "checks": [
                {"what": c.what, "expected": c.expected, "found": c.found, "ok": c.ok} for c in self.checks
            ],
            "violations": [violation.model_dump() for violation in self.violations],
            "ok": self.ok,
        }


def _rounded(points: list[Point]) -> list[Point]:
    return [(round(x, 3), round(y, 4)) for x, y in points]


def environment(dsn: str) -> dict[str, Any]:
    """The server, its settings, its durability, the machine of the client and its load at this moment."""
    with connect(dsn) as conn:
        host = conn.info.host
        settings = dict(
            conn.execute(
                "select name, current_setting(name) from pg_settings where name = any(%s) order by name",
                [list(_SETTINGS)],
            ).fetchall()
        )
        [(version,)] = conn.execute("select current_setting('server_version')").fetchall()
    weak = not_durable(dsn)
    return {
        "server_version": version,
        "settings": settings,
        "durability": f"NOT DURABLE: {', '.join(weak)}"
        if weak
        else "fsync, full_page_writes, synchronous_commit on",
        "server_is_local": host.startswith("/") or host in ("", "localhost", "127.0.0.1", "::1"),
        "client_cores": os.cpu_count(),
        "client_load": round(os.getloadavg()[0], 2),
        "client_system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": {name: importlib.metadata.version(name) for name in ("farebox", "psycopg")},
    }
