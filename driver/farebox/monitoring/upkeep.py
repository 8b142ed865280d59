# ruff: noqa: E501 - SQL stays in one piece
"""The work that keeps a database in order. Every task is safe to run anywhere, any time, twice at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import psycopg

from farebox._dsn import Target
from farebox.errors import map_error

_PAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class Retention:
    """How long what is settled is kept, by the database's clock; None: for ever."""

    resolved: timedelta | None = timedelta(days=365)
    conflicts: timedelta | None = timedelta(days=90)


def _purges(retention: Retention) -> list[tuple[str, timedelta]]:
    """The functions that remove what is settled, and how old it has to be for each."""
    ages = {"purge_unapplied_payments": retention.resolved, "purge_dead_requests": retention.conflicts}
    return [(function, age) for function, age in ages.items() if age is not None]


def _purge_statement(retention: Retention) -> str:
    return "select " + ", ".join(
        f"farebox.{function}(now() - interval '{age.days} days', 10000)"
        for function, age in _purges(retention)
    )


@dataclass(frozen=True, slots=True)
class Task:
    """One task: its name, what it does, and for pg_cron the statement and how often it should run."""

    name: str
    does: str
    statement: str
    schedule: str


# In this order: what becomes applicable first, then what is to be applied, then the clearing up.
TASKS: Final = (
    Task(
        "expire", "marked payment codes as expired", "select farebox.expire_payment_codes(10000)", "* * * * *"
    ),
    Task(
        "records",
        "wrote missing transaction records",
        "select farebox.record_missing_transactions(10000)",
        "7 * * * *",
    ),
    Task(
        "apply",
        "gave unapplied payments their ticket",
        "select count(*) from farebox.apply_unapplied_payments(1000)",
        "*/10 * * * *",
    ),
    Task(
        "purge",
        "removed what was settled long ago",
        _purge_statement(Retention()),
        "17 3 * * *",
    ),
    Task(
        "analyze",
        "brought the statistics of tables up to date",
        "select farebox.analyze_tables()",
        "27 * * * *",
    ),
)


def run(
    dsn: str,
    *,
    only: frozenset[str] = frozenset(),
    retention: Retention | None = None,
    on_task: Callable[[Task], None] | None = None,
) -> Iterator[tuple[Task, int]]:
    """Run the tasks (`only`: those named), each step in a transaction of its own; how much each has done.

    A login of farebox_worker or farebox_admin may. Raises FareboxError; what was done before it stands.
    """
    try:
        conn = psycopg.connect(Target(dsn).conninfo, autocommit=True, application_name="farebox maintain")
        conn.prepare_threshold = None
        with conn:
            for task in TASKS:
                if not only or task.name in only:
                    if on_task is not None:
                        on_task(task)
                    yield task, _STEPS[task.name](conn, retention or Retention())
    except psycopg.Error as error:
        raise map_error(error) from None


def cron_sql(*, only: frozenset[str] = frozenset(), retention: Retention | None = None) -> str:
    """The same tasks as jobs of the extension pg_cron, to run once in the database; running it again changes nothing."""
    purge = _purge_statement(retention or Retention())
    jobs = (
        f"select cron.schedule('farebox-{task.name}', '{task.schedule}',"
        f" $${purge if task.name == 'purge' else task.statement}$$);"
        for task in TASKS
        if not only or task.name in only
    )
    return "\n".join(("create extension if not exists pg_cron;", *jobs))


Connection = psycopg.Connection[Any]


def _value(conn: Connection, query: str, *parameters: object) -> Any:
    [value] = conn.execute(query.encode(), parameters).fetchone() or (None,)
    return value


def _until_done(conn: Connection, query: str, *parameters: object) -> int:
    total = 0
    while True:
        done = int(_value(conn, query, *parameters, _PAGE))
        total += done
        if done < _PAGE:
            return total


def _expire(conn: Connection, _: Retention) -> int:
    return _until_done(conn, "select farebox.expire_payment_codes(%s)")


def _records(conn: Connection, _: Retention) -> int:
    return _until_done(conn, "select farebox.record_missing_transactions(%s)")


def _apply(conn: Connection, _: Retention) -> int:
    applied = 0
    # What is tried goes to the end of the line: so many rounds try each payment once.
    waiting = float(
        _value(
            conn,
            "select coalesce(sum(m.value), 0) from farebox.metrics_unapplied() as m"
            " where m.metric = 'farebox_unapplied_payments'",
        )
    )
    while waiting > 0:
        applied += int(
            _value(
                conn,
                "select count(*) from farebox.apply_unapplied_payments(%s) as o where o.outcome = 'created'",
                _PAGE,
            )
        )
        waiting -= _PAGE
    return applied


def _purge(conn: Connection, retention: Retention) -> int:
    return sum(
        _until_done(conn, f"select farebox.{function}(now() - %s, %s)", age)
        for function, age in _purges(retention)
    )


def _analyze(conn: Connection, _: Retention) -> int:
    return int(_value(conn, "select count(*) from farebox.analyze_tables()"))


_STEPS: Final[dict[str, Callable[[Connection, Retention], int]]] = {
    "expire": _expire,
    "records": _records,
    "apply": _apply,
    "purge": _purge,
    "analyze": _analyze,
}
