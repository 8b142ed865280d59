# ruff: noqa: E501 - SQL stays in one piece
"""What `farebox top` shows: two readings of the metrics, and what happened in between."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg
from psycopg.rows import dict_row

from farebox._dsn import Target
from farebox.monitoring.samples import Family, collect

_GROUPS: Final = ("tickets", "batches", "queue", "retries", "unapplied", "codes", "server")

_LOCKS: Final = """
select w.pid, coalesce(b.pid, 0) as blocker, coalesce(b.usename, '?') as login, coalesce(b.application_name, '') as program,
  coalesce(b.state, '?') as state, extract(epoch from clock_timestamp() - w.state_change)::float8 as seconds
from pg_stat_activity as w
cross join lateral unnest(pg_blocking_pids(w.pid)) as blocking (pid)
left join pg_stat_activity as b on b.pid = blocking.pid
where w.wait_event_type = 'Lock'
order by seconds desc, w.pid
limit 10
"""

Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Reading:
    """The metrics of one moment; `at` is in seconds of the monotonic clock."""

    at: float
    values: Mapping[tuple[str, frozenset[tuple[str, str]]], float]
    companies: Rows = field(default_factory=Rows)
    codes: Rows = field(default_factory=Rows)
    locks: Rows = field(default_factory=Rows)
    server: str = ""

    @property
    def is_up(self) -> bool:
        """Whether the database answered."""
        return self.value("farebox_up") == 1

    def value(self, name: str, **labels: str) -> float | None:
        """One sample, None when it is not known."""
        return self.values.get((name, frozenset(labels.items())))

    def sum(self, name: str, **labels: str) -> float | None:
        """All samples of that name with (at least) these labels, added up; None when there is none."""
        wanted = frozenset(labels.items())
        found = [value for (each, had), value in self.values.items() if each == name and wanted <= had]
        return sum(found) if found else None

    def rate(self, before: Reading | None, name: str, **labels: str) -> float | None:
        """How much a counter grew a second since `before`; None when that is not known (yet)."""
        if before is None or self.at <= before.at:
            return None
        now, then = self.sum(name, **labels), before.sum(name, **labels)
        # A counter that fell was reset.
        return None if now is None or then is None or now < then else (now - then) / (self.at - before.at)


def read(dsn: str) -> Reading:
    """A reading of now. A database that does not answer gives one that says so; what a login may not see is left out."""
    values = _by_labels(collect(dsn, _GROUPS))
    companies: Rows = []
    codes: Rows = []
    locks: Rows = []
    server = ""
    if values.get(("farebox_up", frozenset())) == 1:
        try:
            with psycopg.connect(
                Target(dsn).conninfo, autocommit=True, application_name="farebox top"
            ) as conn:
                conn.prepare_threshold = None
                cursor = conn.cursor(row_factory=dict_row)
                server = f"PostgreSQL {conn.info.server_version // 10000}, {conn.info.dbname}"
                locks = cursor.execute(_LOCKS.encode()).fetchall()
                activity = cursor.execute("select * from farebox.metrics_activity()").fetchall()
                companies = [
                    row | {"waits": row["oldest_age"].total_seconds() if row["oldest_age"] else 0.0}
                    for row in activity
                    if row["kind"] == "company"
                ]
                codes = [row for row in activity if row["kind"] == "code"]
        except psycopg.Error:
            # Lost in between, locked, not migrated or not allowed: the rest is shown.
            pass
    return Reading(time.monotonic(), values, companies, codes, locks, server)


def _by_labels(families: list[Family]) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (family.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }
