"""Producers and workers as tests write them."""

import json
from collections.abc import Iterable, Sequence
from typing import Any, LiteralString, NamedTuple

import psycopg
from psycopg import sql

from tests.core.support import Shop, as_json
from tests.support.database import Database, Row

Connection = psycopg.Connection[Row]
Payment = dict[str, Any]


class Counts(NamedTuple):
    """What one call of ``process_ticket_queue`` says, or several."""

    taken: int = 0
    created: int = 0
    duplicates: int = 0
    conflicts: int = 0
    rejected: int = 0
    retried: int = 0
    dead: int = 0


def enqueue(conn: Connection, payments: Sequence[Payment]) -> list[int]:
    """Stores them; their queue ids, in order."""
    rows = conn.execute("select * from farebox.enqueue_tickets(%s::json)", [as_json(payments)])
    return [queue_id for _, queue_id in rows]


def process(conn: Connection, limit: int = 100) -> Counts:
    """One batch."""
    [row] = conn.execute("select * from farebox.process_ticket_queue(%s)", [limit])
    return Counts(*row)


def process_all(conn: Connection, limit: int = 100) -> Counts:
    """Batches until nothing is ready; the sums."""
    total = Counts()
    while (counts := process(conn, limit)).taken:
        total = sum_of((total, counts))
    return total


_CLOCK = "(extract(epoch from clock_timestamp()) * 1000)::bigint"


def tick(conn: Connection) -> None:
    """As if 50 ms had passed since the queue's floor was last looked at."""
    conn.execute(sql.SQL("select setval('farebox.ticket_queue_tick', {} - 1)").format(sql.SQL(_CLOCK)))


def postpone_sweep(conn: Connection) -> None:
    """Claims do not look below the floor for half a minute, as after a sweep that took long."""
    conn.execute(sql.SQL("select setval('farebox.ticket_queue_sweep', {} + 30000)").format(sql.SQL(_CLOCK)))


def sum_of(all_counts: Iterable[Counts]) -> Counts:
    """The sums, column by column."""
    return Counts(*(sum(column) for column in zip(Counts(), *all_counts, strict=True)))


def missing(db: Database, payments: Iterable[Payment]) -> set[str]:
    """Which of these payments have no ticket."""
    ids = {payment["monime_transaction_id"] for payment in payments}
    tickets = db.execute(
        "select monime_transaction_id from farebox.tickets where monime_transaction_id = any(%s)", [list(ids)]
    )
    return ids - {transaction for (transaction,) in tickets}


def assert_all_done(db: Database, payments: Sequence[Payment]) -> None:
    """Each has its ticket, nothing waits or is dead, and every invariant holds."""
    assert db.execute("select * from farebox.list_queued_requests()") == []
    dead = db.execute("select * from farebox.list_dead_requests()")
    assert dead == [], dead
    assert missing(db, payments) == set()
    assert db.execute("select * from farebox.verify()") == []


def poison(db: Database, otp: str, action: LiteralString) -> None:
    """From now on, whoever writes a ticket with this OTP runs ``action``; `poisoned` counts how often."""
    db.execute("create sequence public.poisoned minvalue 0 start 0")
    db.execute(
        sql.SQL(
            "create function public.poison() returns trigger language plpgsql security definer as $f$"
            " begin perform nextval('public.poisoned'); {}; return new; end $f$"
        ).format(sql.SQL(action))
    )
    db.execute("revoke all on function public.poison() from public")
    db.execute(
        sql.SQL(
            "create trigger poison before insert on farebox.tickets"
            " for each row when (new.monime_otp = {}) execute function public.poison()"
        ).format(sql.Literal(otp))
    )


def json_lines(text: bytes) -> list[dict[str, Any]]:
    """The log of ``farebox worker --log-format json``."""
    return [json.loads(line) for line in text.splitlines()]


__all__ = [
    "Connection",
    "Counts",
    "Payment",
    "Shop",
    "assert_all_done",
    "enqueue",
    "json_lines",
    "missing",
    "poison",
    "postpone_sweep",
    "process",
    "process_all",
    "sum_of",
    "tick",
]
