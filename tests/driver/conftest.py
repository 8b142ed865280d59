"""A company with a route to sell tickets for, and both clients behind one face."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, LiteralString
from uuid import UUID

import psycopg
import pytest
from psycopg import sql

from farebox import AsyncFarebox, Farebox
from tests.support.database import Database, Row


@dataclass(frozen=True)
class Shop:
    """One company, one route, and payments for them."""

    db: Database
    company: UUID
    route: UUID

    @property
    def dsn(self) -> str:
        return self.db.dsn

    @property
    def tables_dsn(self) -> str:
        """Where the company's tables are."""
        return self.db.dsn

    def on_tables(self, query: LiteralString | sql.Composed) -> list[Row]:
        """Runs one statement there."""
        with psycopg.connect(self.tables_dsn, autocommit=True) as conn:
            cursor = conn.execute(query)
            return cursor.fetchall() if cursor.description else []

    def payment(self, **fields: Any) -> dict[str, Any]:
        """A payment that becomes a ticket."""
        return self.db.payment(self.company, self.route, **fields)

    def payments(self, count: int) -> list[dict[str, Any]]:
        return [self.payment() for _ in range(count)]

    @contextlib.contextmanager
    def hold(self, payment: dict[str, Any]) -> Generator[None]:
        """Another session has created this payment's ticket, keeps its transaction open, then rolls back."""
        with self.db.connect(dsn=self.tables_dsn) as other:
            other.execute("select farebox.create_ticket(%s)", [json.dumps(payment)])
            try:
                yield
            finally:
                other.rollback()

    def fail_tickets(self, sqlstate: str, *, otp: str, times: int = 10**9) -> None:
        """The next `times` statements that create a ticket with this OTP raise this error."""
        self.on_tables(
            sql.SQL(
                """
                create sequence public.failures;
                grant usage on sequence public.failures to public;
                create function public.fail() returns trigger language plpgsql as $f$
                begin
                  if nextval('public.failures') <= {times} then
                    raise exception 'on purpose' using errcode = {sqlstate};
                  end if;
                  return new;
                end $f$;
                create trigger fail before insert on farebox.tickets for each row
                when (new.monime_otp = {otp}) execute function public.fail()
                """
            ).format(times=sql.Literal(times), sqlstate=sql.Literal(sqlstate), otp=sql.Literal(otp))
        )

    def restart(self) -> None:
        """Start the server that was killed, and get used to it."""
        self.db.server.start()
        with contextlib.suppress(psycopg.OperationalError):
            self.db.execute("select")

    def failures(self) -> int:
        """How often the statements of `fail_tickets` ran."""
        [(count,)] = self.on_tables("select last_value from public.failures")
        return int(count)

    def tickets(self) -> int:
        """How many there are in the database."""
        count: int = self.db.value("select count(*) from farebox.tickets")
        return count

    def assert_sound(self, tickets: int) -> None:
        """So many tickets, and no invariant is broken."""
        assert self.tickets() == tickets
        assert self.db.execute("select * from farebox.verify()") == []


def open_shop(db: Database) -> Shop:
    company = db.company()
    return Shop(db, company, db.route(company))


@pytest.fixture
def shop(db: Database) -> Shop:
    return open_shop(db)


@pytest.fixture
def own_shop(own_db: Database) -> Shop:
    """On a server of the test's own."""
    return open_shop(own_db)


Call = Callable[..., Any]


class Client:
    """Either client, called alike: `client("create_ticket", payment)`. Streams come back as lists."""

    def __init__(self, real: AsyncFarebox | Farebox, runner: asyncio.Runner) -> None:
        self.real = real
        self._runner = runner

    def __call__(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self.come(getattr(self.real, method)(*args, **kwargs))

    def come(self, result: Any) -> Any:
        """What a call returned, waited for if it has to be."""
        if inspect.isasyncgen(result):
            return self._runner.run(_collected(result))
        if inspect.isgenerator(result):
            return list(result)
        return self._runner.run(_awaited(result)) if inspect.isawaitable(result) else result


async def _collected(stream: Any) -> list[Any]:
    return [item async for item in stream]


async def _awaited(result: Any) -> Any:
    return await result


@pytest.fixture(params=[AsyncFarebox, Farebox], ids=["async", "sync"])
def connect(request: pytest.FixtureRequest) -> Iterator[Call]:
    """`connect(dsn, **options)` gives a `Client`; the test runs with each of the two."""
    with asyncio.Runner() as runner:
        clients: list[Client] = []

        def make(dsn: str, **options: Any) -> Client:
            clients.append(Client(request.param(dsn, **options), runner))
            return clients[-1]

        yield make
        for client in clients:
            client("close")
