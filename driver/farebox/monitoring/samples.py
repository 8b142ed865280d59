"""The numbers that Farebox tells about a database, and the text format of Prometheus.

The numbers come from SQL functions, one for each group: PostgreSQL keeps them, selling writes none; see
`farebox.metrics` for what the driver counts of its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Final

import psycopg
from psycopg.rows import dict_row

from farebox._dsn import Target

GROUPS: Final = ("tickets", "batches", "queue", "retries", "unapplied", "codes", "storage", "server")
"""The groups; all but `queue` are functions `farebox.metrics_<group>()`."""

_TIMEOUT_MS: Final = 10_000

HELP: Final[dict[str, str]] = {
    "farebox_up": "Whether the database answered",
    "farebox_shard_up": "Whether a router's shard answered",
    "farebox_info": "The version of Farebox that asked",
    "farebox_group_up": "Whether this group of metrics could be read",
    "farebox_scrape_seconds": "How long reading all groups took",
    "farebox_rows_written_total": "Rows written by table and operation; tickets/insert: tickets made",
    "farebox_ticket_outcomes_total": "Payments answered by outcome, those of rolled back calls included",
    "farebox_rows_estimate": "Rows of each table as of its last analyze",
    "farebox_tickets_pending_estimate": "Pending tickets as of the last analyze",
    "farebox_last_ticket_timestamp_seconds": "When the newest ticket was created",
    "farebox_function_calls_total": "Calls of the functions that sell (needs track_functions = pl)",
    "farebox_function_seconds_total": "Time in the functions that sell (needs track_functions = pl)",
    "farebox_batches_running": "Batches that are at work now",
    "farebox_batch_running_seconds": "How long the oldest batch of now has been at work",
    "farebox_statement_calls_total": "Calls of what sells (needs pg_stat_statements)",
    "farebox_statement_rows_total": "Outcomes they returned (needs pg_stat_statements)",
    "farebox_statement_seconds_total": "Time they took (needs pg_stat_statements)",
    "farebox_statement_seconds_max": "The longest since the reset (needs pg_stat_statements)",
    "farebox_queue_size": "Requests stored and not settled yet",
    "farebox_queue_oldest_seconds": "How long the oldest of them has waited",
    "farebox_queue_requests": "Requests in the queue by state",
    "farebox_queue_attempts": "Requests in the queue by failed attempts",
    "farebox_queue_retries_total": "Queued requests put back to be tried again",
    "farebox_queue_given_up_total": "Queued requests that used up their attempts",
    "farebox_queue_backoff": "Requests that wait to be tried again, by what went wrong",
    "farebox_queue_dead": "Requests that came to no ticket and wait for a person",
    "farebox_queue_dead_rows": "Dead rows in the queue's table",
    "farebox_queue_oldest_snapshot_xids": "Age of what keeps vacuum from removing them, in transactions",
    "farebox_unapplied_payments": "Payments without a ticket, by reason",
    "farebox_unapplied_oldest_seconds": "How long the oldest of them has waited",
    "farebox_payment_codes": "Payment codes by status",
    "farebox_payment_codes_nearly_spent": "Active payment codes that are 90 % spent or more",
    "farebox_payment_codes_overdue": "Payment codes past their end and still called active",
    "farebox_relation_bytes": "Size of each table and index",
    "farebox_bloat_ratio": "Estimated share of empty space, as of the last analyze",
    "farebox_dead_rows": "Dead rows of each table",
    "farebox_live_rows": "Live rows of each table",
    "farebox_rows_changed_since_analyze": "Rows that changed since the table was last analyzed",
    "farebox_last_vacuum_timestamp_seconds": "When the table was last vacuumed",
    "farebox_index_scans_total": "Scans of each index",
    "farebox_connections": "Connections by state",
    "farebox_connections_limit": "Connections that ordinary logins may open in all",
    "farebox_workers": "Connections of queue workers",
    "farebox_blocked_sessions": "Sessions that wait for a lock",
    "farebox_blocked_seconds": "How long the longest of them has waited",
    "farebox_oldest_transaction_seconds": "Age of the oldest open transaction",
    "farebox_oldest_snapshot_xids": "Age of the oldest snapshot, in transactions",
    "farebox_prepared_transactions": "Prepared transactions that nobody has finished",
    "farebox_commits_total": "Transactions committed",
    "farebox_rollbacks_total": "Transactions rolled back",
    "farebox_deadlocks_total": "Deadlocks",
    "farebox_blocks_read_total": "Blocks read from outside the shared buffers",
    "farebox_blocks_hit_total": "Blocks found in the shared buffers",
    "farebox_oldest_xid_age": "Age of the oldest transaction id; the server stops at two thousand million",
    "farebox_slot_retained_bytes": "Write-ahead log that a replication slot holds back",
}


@dataclass(frozen=True, slots=True)
class Sample:
    """One number with its labels."""

    labels: Mapping[str, str]
    value: float


@dataclass(slots=True)
class Family:
    """All samples of one name."""

    name: str
    samples: list[Sample] = field(default_factory=list[Sample])

    @property
    def kind(self) -> str:
        """counter or gauge: the name tells."""
        return "counter" if self.name.endswith("_total") else "gauge"


def collect(dsn: str, groups: Sequence[str] = GROUPS) -> list[Family]:
    """Read the groups from the database; a group that cannot be read costs only itself.

    Raises nothing for a database that is down: that is a finding too (`farebox_up` 0). Takes some ten
    milliseconds, also with millions of tickets.
    """
    families: dict[str, Family] = {}
    started = time.monotonic()

    def add(name: str, value: float, labels: Mapping[str, str] | None = None) -> None:
        families.setdefault(name, Family(name)).samples.append(Sample(labels or {}, value))

    add("farebox_info", 1, {"version": version("farebox")})
    try:
        with psycopg.connect(
            Target(dsn).conninfo, autocommit=True, application_name="farebox metrics"
        ) as conn:
            conn.prepare_threshold = None
            add("farebox_up", 1)
            for group in groups:
                try:
                    # In a transaction, so that nothing that is set stays behind in a pooler.
                    with conn.transaction():
                        conn.execute("select set_config('statement_timeout', %s, true)", [str(_TIMEOUT_MS)])
                        rows = list(_queue(conn) if group == "queue" else _rows(conn, group))
                except (psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable):
                    add("farebox_group_up", 0, {"group": group})
                except (psycopg.ProgrammingError, psycopg.errors.InvalidSchemaName):
                    # Not migrated, or not allowed.
                    add("farebox_group_up", 0, {"group": group})
                else:
                    add("farebox_group_up", 1, {"group": group})
                    for name, labels, value in rows:
                        add(name, value, labels)
    except psycopg.OperationalError:
        families["farebox_up"] = Family("farebox_up", [Sample({}, 0)])
    add("farebox_scrape_seconds", time.monotonic() - started)
    return list(families.values())


def render(families: Iterable[Family]) -> str:
    """The families in the text format of Prometheus (version 0.0.4)."""
    lines: list[str] = []
    for family in families:
        lines.append(f"# HELP {family.name} {HELP.get(family.name, family.name)}")
        lines.append(f"# TYPE {family.name} {family.kind}")
        for sample in family.samples:
            labels = ",".join(f'{key}="{_escaped(value)}"' for key, value in sorted(sample.labels.items()))
            lines.append(f"{family.name}{'{' + labels + '}' if labels else ''} {_number(sample.value)}")
    return "\n".join(lines) + "\n"


Reading = tuple[str, Mapping[str, str], float]


def _rows(conn: psycopg.Connection[Any], group: str) -> Iterator[Reading]:
    query = f"select * from farebox.metrics_{group}()"
    for row in conn.cursor(row_factory=dict_row).execute(query.encode()):
        yield row["metric"], {key: str(value) for key, value in row["labels"].items()}, row["value"]


def _queue(conn: psycopg.Connection[Any]) -> Iterator[Reading]:
    [row] = conn.cursor(row_factory=dict_row).execute("select * from farebox.queue_metrics()")
    yield "farebox_queue_size", {}, row["size"]
    yield "farebox_queue_oldest_seconds", {}, row["oldest_age"].total_seconds() if row["oldest_age"] else 0
    for state in ("ready", "delayed", "paused"):
        yield "farebox_queue_requests", {"state": state}, row[state]
    for attempts, count in row["by_attempts"].items():
        yield "farebox_queue_attempts", {"attempts": str(attempts)}, count
    yield "farebox_queue_dead", {}, row["dead"]
    yield "farebox_queue_dead_rows", {}, row["dead_tuples"]
    yield "farebox_queue_oldest_snapshot_xids", {}, row["oldest_xmin_age"] or 0


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))
