"""A database of the test's own, and short ways to fill it and to watch what its sessions wait for."""

import itertools
import secrets
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, LiteralString
from uuid import UUID

import psycopg
from psycopg import sql

from tests.support.servers import Server, verifier

Row = tuple[Any, ...]
Parameters = Sequence[Any] | Mapping[str, Any]

_serial = itertools.count(1)


class Database:
    """One database, cloned for one test. Connections made here are closed at its end, logins dropped."""

    def __init__(self, server: Server, name: str) -> None:
        self.server = server
        self.name = name
        self.dsn = server.dsn(name)
        self._connections: list[psycopg.Connection[Row]] = []
        self._logins: list[str] = []
        self._own: psycopg.Connection[Row] | None = None

    # -- connections ------------------------------------------------------------------------------------

    def connect(self, *, autocommit: bool = False, dsn: str | None = None) -> psycopg.Connection[Row]:
        """A new connection as superuser, or by ``dsn`` (such as that of a login)."""
        conn = psycopg.connect(dsn or self.dsn, autocommit=autocommit, connect_timeout=30)
        self._connections.append(conn)
        return conn

    def login(self, *groups: str) -> str:
        """The DSN of a new login that is a member of these group roles, such as ``farebox_app``."""
        name, password = f"login_{secrets.token_hex(6)}", secrets.token_urlsafe(12)
        self.execute(
            sql.SQL("create role {} login password {}").format(
                sql.Identifier(name), sql.Literal(verifier(password))
            )
        )
        self._logins.append(name)
        for group in groups:
            self.execute(sql.SQL("grant {} to {}").format(sql.Identifier(group), sql.Identifier(name)))
        return self.server.dsn(self.name, name, password)

    def disconnect(self) -> None:
        """Ends all sessions."""
        for conn in self._connections:
            conn.close()
        if self._own is not None:
            self._own.close()

    def close(self) -> None:
        """Ends all sessions, drops the database and the logins."""
        self.disconnect()
        self.server.drop_database(self.name, *self._logins)

    # -- SQL --------------------------------------------------------------------------------------------

    def execute(
        self, query: LiteralString | sql.Composed | sql.SQL, params: Parameters | None = None
    ) -> list[Row]:
        """Runs one statement as superuser, committed at once; returns its rows, if it has any."""
        if self._own is None or self._own.closed:
            self._own = psycopg.connect(self.dsn, autocommit=True, connect_timeout=30)
        cursor = self._own.execute(query, params)
        return cursor.fetchall() if cursor.description is not None else []

    def value(self, query: LiteralString | sql.Composed | sql.SQL, params: Parameters | None = None) -> Any:
        """The only column of the only row."""
        [[value]] = self.execute(query, params)
        return value

    def on_tables(
        self, query: LiteralString | sql.Composed | sql.SQL, params: Parameters | None = None
    ) -> None:
        """Runs one statement where the tables are: here, but on all shards where this is a router."""
        self.execute(query, params)

    # -- what other sessions do -------------------------------------------------------------------------

    def wait_until_blocked(
        self, *connections: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]
    ) -> None:
        """Returns when each of these sessions waits for a lock; fails when that does not happen."""
        self.wait_for_blocked_pids(*(conn.info.backend_pid for conn in connections))

    def wait_for_blocked_pids(self, *pids: int) -> None:
        """The same by process id."""
        self.wait_until(
            "select count(*) = %s from pg_catalog.pg_stat_activity"
            " where pid = any(%s) and wait_event_type = 'Lock'",
            [len(pids), list(pids)],
        )

    def wait_for_blocked(self, sessions: int) -> None:
        """Returns when at least so many sessions of this database wait for a lock."""
        self.wait_until(
            "select count(*) >= %s from pg_catalog.pg_stat_activity"
            " where datname = current_database() and wait_event_type = 'Lock'",
            [sessions],
        )

    def wait_until(self, condition: LiteralString, params: Parameters | None = None) -> None:
        """Asks again and again until the query says true; fails after a minute, telling what sessions do."""
        deadline = time.monotonic() + 60
        while not self.value(condition, params):
            if time.monotonic() > deadline:
                activity = self.execute(
                    "select pid, state, wait_event_type, wait_event, query from pg_catalog.pg_stat_activity"
                    " where datname = current_database()"
                )
                raise AssertionError(f"did not come true: {condition} {params}\n{activity}")
            time.sleep(0.002)

    # -- Farebox ----------------------------------------------------------------------------------------

    def company(self, *, rate: str = "0.05", status: str = "active") -> UUID:
        """A new company."""
        company: UUID = self.value(
            "insert into farebox.companies (name, commission_rate, status) values (%s, %s, %s) returning id",
            [f"Company {next(_serial)}", rate, status],
        )
        return company

    def route(self, company: UUID, *, fare: int = 5000, status: str = "active") -> UUID:
        """A new route of that company."""
        route: UUID = self.value(
            "insert into farebox.routes (company_id, name, origin, destination, fare, status)"
            " values (%s, %s, 'Freetown', 'Bo', %s, %s) returning id",
            [company, f"Route {next(_serial)}", fare, status],
        )
        return route

    def code(
        self,
        company: UUID,
        total_tickets: int,
        *,
        route: UUID | None = None,
        expires_at: datetime | None = None,
    ) -> str:
        """A new active payment code of that company, unused."""
        code: str = self.value(
            "insert into farebox.payment_codes (company_id, route_id, code, total_tickets, expires_at)"
            " values (%s, %s, %s, %s, %s) returning code",
            [company, route, f"*715*{next(_serial)}#", total_tickets, expires_at],
        )
        return code

    def payment(self, company: UUID, route: UUID, **fields: Any) -> dict[str, Any]:
        """One element of a batch that becomes a ticket; ``fields`` replace or add keys (None: JSON null)."""
        number = next(_serial)
        return {
            "company_id": str(company),
            "route_id": str(route),
            "passenger_phone": f"+23276{number:06d}",
            "monime_transaction_id": f"pay-{secrets.token_hex(6)}-{number}",
            "monime_otp": f"{number % 10**6:06d}",
            "amount": 5000,
        } | fields

    def set_clock(self, now: datetime) -> None:
        """Stops Farebox's clock at that moment, for every session, until it is set again."""
        self.on_tables(
            sql.SQL(
                "create or replace function farebox._now() returns timestamptz"
                " language sql volatile parallel safe as $$ select {}::timestamptz $$"
            ).format(sql.Literal(now))
        )

    def advance_clock(self, by: timedelta) -> datetime:
        """Stops Farebox's clock that much later than it says now; returns the moment."""
        now: datetime = self.value("select farebox._now()") + by
        self.set_clock(now)
        return now
