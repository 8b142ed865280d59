"""Calls of the SQL API as tests write them, and calls that wait for something in a thread of their own."""

import json
import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Generic, LiteralString, NamedTuple, TypeVar
from uuid import UUID

import psycopg

from tests.support.database import Database, Row

Connection = psycopg.Connection[Row]
T = TypeVar("T")


class Outcome(NamedTuple):
    """One row of ``create_tickets``."""

    ordinal: int
    transaction_id: str | None
    outcome: str
    reason: str | None
    ticket_id: UUID | None
    existing_ticket_id: UUID | None
    differing: list[str] | None
    recorded: bool | None

    @property
    def said(self) -> str:
        """The outcome, or the reason of a rejection: what most tests ask for."""
        return self.outcome if self.reason is None else self.reason


def as_json(elements: Sequence[dict[str, Any] | str]) -> str:
    """A batch; elements that are texts are JSON already."""
    return f"[{', '.join(e if isinstance(e, str) else json.dumps(e) for e in elements)}]"


def create(conn: Connection, *elements: dict[str, Any] | str) -> list[Outcome]:
    """``create_tickets`` of a batch."""
    rows = conn.execute("select * from farebox.create_tickets(%s::json)", [as_json(elements)])
    return [Outcome(*row) for row in rows]


def create_one(conn: Connection, element: dict[str, Any] | str) -> Outcome:
    """``create_ticket``."""
    text = element if isinstance(element, str) else json.dumps(element)
    [row] = conn.execute("select * from farebox.create_ticket(%s::json)", [text])
    return Outcome(*row)


def apply_unapplied(conn: Connection, limit: int = 1000, reason: str | None = None) -> list[Outcome]:
    """``apply_unapplied_payments``."""
    rows = conn.execute("select * from farebox.apply_unapplied_payments(%s, %s)", [limit, reason])
    return [Outcome(*row) for row in rows]


def said(outcomes: Sequence[Outcome]) -> list[str]:
    """The outcome of each row, or its reason if it has one."""
    return [outcome.said for outcome in outcomes]


def violations(db: Database) -> list[Row]:
    """What ``verify`` finds."""
    return db.execute("select * from farebox.verify()")


def uses(db: Database, code: str) -> tuple[int, str]:
    """Counter and status of a payment code."""
    [(used, status)] = db.execute(
        "select used_tickets, status from farebox.payment_codes where code = %s", [code]
    )
    return used, status


def scalar(conn: Connection, query: LiteralString, params: Sequence[Any] = ()) -> Any:
    """The only column of the only row."""
    [[value]] = conn.execute(query, params)
    return value


def retrying(conn: Connection, call: Callable[[], T], *, isolation: psycopg.IsolationLevel) -> T:
    """What a caller in a strict isolation level does: the whole transaction again after each 40001."""
    conn.isolation_level = isolation
    for _ in range(1_000):
        try:
            result = call()
            conn.commit()
        except psycopg.errors.SerializationFailure:
            conn.rollback()
        else:
            return result
    raise AssertionError("a thousand attempts were not enough")


def stop_the_clock(db: Database, now: datetime) -> None:
    """As ``db.set_clock``, for sessions that are in the middle of a call: they see each change at once."""
    db.on_tables(
        "create table if not exists public.the_clock (only_row boolean primary key, now timestamptz not null)"
    )
    db.on_tables("grant select on public.the_clock to public")
    db.on_tables(
        "insert into public.the_clock values (true, %s)"
        " on conflict (only_row) do update set now = excluded.now",
        [now],
    )
    db.on_tables(
        "create or replace function farebox._now() returns timestamptz language sql volatile"
        " as $$ select c.now from public.the_clock as c $$"
    )


def together(*functions: Callable[[], T]) -> list[T]:
    """Runs them at once, each in a thread of its own; returns what each returned."""
    calls = [Call(function) for function in functions]
    return [call.result() for call in calls]


class Shop:
    """A company that sells one route."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.company: UUID = db.company()
        self.route: UUID = db.route(self.company)

    def payments(self, count: int, **fields: Any) -> list[dict[str, Any]]:
        """New payments, good unless ``fields`` say otherwise."""
        return [self.db.payment(self.company, self.route, **fields) for _ in range(count)]


class Call(Generic[T]):
    """A function that runs in a thread of its own, because it will wait for a lock."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._result: list[T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result.append(self._function())
        except BaseException as error:
            self._error = error

    def result(self) -> T:
        """What the function returned; raises what it raised. Fails when it does not come back."""
        self._thread.join(timeout=120)
        if self._thread.is_alive():
            raise AssertionError("the call does not come back")
        if self._error is not None:
            raise self._error
        [result] = self._result
        return result


def calling(
    db: Database, conn: Connection, *elements: dict[str, Any] | str, commit: bool = False
) -> Call[list[Outcome]]:
    """``create_tickets`` on its way; returns when it waits for a lock.

    ``commit`` ends the transaction of ``conn`` as soon as the call comes back.
    """

    def run() -> list[Outcome]:
        outcomes = create(conn, *elements)
        if commit:
            conn.commit()
        return outcomes

    call = Call(run)
    db.wait_until_blocked(conn)
    return call
