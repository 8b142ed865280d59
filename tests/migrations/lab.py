"""A server to migrate on: databases, logins with few rights, processes to kill."""

import contextlib
import itertools
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from farebox._files import migrations_dir
from farebox.schema import load_schema
from tests.migrations.catalog import Catalog, database_catalog, role_catalog
from tests.support.servers import Server

Connection = psycopg.Connection[tuple[Any, ...]]

_APPLY = "import sys; from farebox.migrate import apply; print(*apply(sys.argv[1]))"

# One row in each table, so that a step back is taken with something in the way.
_ROWS: dict[str, LiteralString] = {
    "companies": "insert into farebox.companies (id, name) values (%(id)s, 'Data')",
    "routes": "insert into farebox.routes (id, company_id, name, origin, destination, fare)"
    " values (%(id)s, %(id)s, 'Data', 'Freetown', 'Bo', 5000)",
    "payment_codes": "insert into farebox.payment_codes (id, company_id, code, total_tickets, used_tickets)"
    " values (%(id)s, %(id)s, '*1#', 9, 1)",
    "tickets": "insert into farebox.tickets (id, company_id, route_id, passenger_phone,"
    " monime_transaction_id, monime_otp, payment_code_id, amount, commission_rate)"
    " values (%(id)s, %(id)s, %(id)s, '+23276000001', 'pay-data', '123456', %(id)s, 5000, 0.05)",
    "transactions": "insert into farebox.transactions (ticket_id, company_id, amount, commission, net_amount)"
    " values (%(id)s, %(id)s, 5000, 250, 4750)",
    "unapplied_payments": "insert into farebox.unapplied_payments"
    " (monime_transaction_id, company_id, request, reason)"
    " values ('pay-late', %(id)s, '{}', 'code_exhausted')",
    "ticket_queue": "insert into farebox.ticket_queue (id, rank, enqueued_at, company_id, request)"
    " values (1, 1, now(), %(id)s, '{}')",
    "ticket_queue_dead": "insert into farebox.ticket_queue_dead"
    " (id, request, reason, first_seen_at, last_seen_at, fingerprint)"
    " values (1, '{}', 'conflict', now(), now(), '')",
    "ticket_queue_pauses": "insert into farebox.ticket_queue_pauses (company_id, paused_at)"
    " values (%(id)s, now())",
    "tally": "insert into farebox.tally (duplicates, conflicts, rejections, retries, given_up)"
    " values (201, 201, 201, 201, 201)",
    "company_logins": "insert into farebox.company_logins (login, company_id) values ('data', %(id)s)",
}
# By version, as it is the same every time; half of these tests want it.
_OF_DB: dict[str, Catalog] = {}
_ID = "0190a8b2-0000-7000-8000-000000000001"


class Lab:
    """A running server; ``clean`` takes away every database and role that a test made."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._passwords: dict[str, str] = {}
        self._names = itertools.count(1)
        self._processes: list[subprocess.Popen[str]] = []
        self._connections: list[Connection] = []

    # -- making things ------------------------------------------------------------------------------------

    def login(self, attributes: LiteralString = "", *, password: str = "secret") -> str:
        """A new role that may log in and has these attributes, such as ``createrole``; returns its name."""
        name = f"login{next(self._names)}"
        self._passwords[name] = password
        self.execute(
            "postgres",
            sql.SQL("create role {} login password {} " + attributes).format(
                sql.Identifier(name), sql.Literal(password)
            ),
        )
        return name

    def renamed(self, old: str, new: str) -> str:
        """Notes that a login was renamed; returns the new name."""
        self._passwords[new] = self._passwords.pop(old)
        return new

    def database(self, *, owner: str | None = None, encoding: LiteralString = "UTF8") -> str:
        """A new empty database; returns its name. Nobody but its owner may create anything in it."""
        name = f"lab{next(self._names)}"
        options = f"encoding '{encoding}' locale_provider libc lc_collate 'C' lc_ctype 'C'"
        self.execute("postgres", f"create database {name} template template0 {options}".encode())
        if owner is not None:
            self.execute(
                "postgres",
                sql.SQL("alter database {} owner to {}").format(sql.Identifier(name), sql.Identifier(owner)),
            )
        return name

    def dsn(self, database: str, login: str | None = None) -> str:
        """The address of that database for that login (default: the superuser)."""
        if login is None:
            return self.server.dsn(database)
        return self.server.dsn(database, login, self._passwords[login])

    def connect(self, database: str, login: str | None = None, *, autocommit: bool = True) -> Connection:
        """A new connection, closed when the test ends."""
        conn = psycopg.connect(self.dsn(database, login), autocommit=autocommit, connect_timeout=30)
        self._connections.append(conn)
        return conn

    def execute(
        self, database: str, statement: LiteralString | sql.Composed | bytes
    ) -> list[tuple[Any, ...]]:
        """Runs one statement as superuser, committed at once; returns its rows, if it has any."""
        with psycopg.connect(self.dsn(database), autocommit=True, connect_timeout=30) as conn:
            cursor = conn.execute(statement)
            return cursor.fetchall() if cursor.description else []

    # -- looking ------------------------------------------------------------------------------------------

    def catalog(self, database: str) -> Catalog:
        """Every object of the database."""
        with psycopg.connect(self.dsn(database), autocommit=True) as conn:
            return database_catalog(conn)

    def catalog_and_roles(self, database: str) -> Catalog:
        """Every object of the database and every role of the server."""
        with psycopg.connect(self.dsn(database), autocommit=True) as conn:
            return database_catalog(conn) | role_catalog(conn)

    def catalog_of_db_folder(self, folder: Path | None = None) -> Catalog:
        """What ``db/`` makes of an empty database."""
        if folder is not None:
            return self._loaded(folder)
        if self.server.name not in _OF_DB:
            _OF_DB[self.server.name] = self._loaded(None)
        return _OF_DB[self.server.name]

    def _loaded(self, folder: Path | None) -> Catalog:
        name = self.database()
        with psycopg.connect(self.dsn(name)) as conn:
            load_schema(conn, folder)
        found = self.catalog(name)
        self.drop_database(name)
        return found

    def drop_database(self, name: str) -> None:
        """Drops it, ending its sessions."""
        self.execute("postgres", sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))

    def add_data(self, database: str) -> None:
        """Puts one row into each table there is."""
        with psycopg.connect(self.dsn(database)) as conn:
            present = {
                name
                for (name,) in conn.execute("select tablename from pg_tables where schemaname = 'farebox'")
            }
            assert present <= _ROWS.keys(), "say how to fill the new tables"
            for table, statement in _ROWS.items():
                if table in present:
                    conn.execute(statement + " on conflict do nothing", {"id": _ID})

    def counts(self, database: str) -> dict[str, int]:
        """How many rows each table of Farebox has."""
        with psycopg.connect(self.dsn(database)) as conn:
            names = [
                name
                for (name,) in conn.execute("select tablename from pg_tables where schemaname = 'farebox'")
            ]
            return {name: self._count(conn, name) for name in names}

    def _count(self, conn: Connection, table: str) -> int:
        row = conn.execute(
            sql.SQL("select count(*) from farebox.{}").format(sql.Identifier(table))
        ).fetchone()
        assert row is not None
        return int(row[0])

    def wait_until(self, database: str, condition: LiteralString) -> None:
        """Asks again and again until the query says true; fails after a minute."""
        deadline = time.monotonic() + 60
        while self.execute(database, condition) != [(True,)]:
            assert time.monotonic() < deadline, f"did not come true: {condition}"
            time.sleep(0.005)

    def wait_for_blocked(self, database: str, sessions: int) -> None:
        """Returns when that many sessions of the database wait for a lock."""
        with psycopg.connect(self.dsn("postgres"), autocommit=True) as conn:
            deadline = time.monotonic() + 60
            query = "select count(*) from pg_stat_activity where datname = %s and wait_event_type = 'Lock'"
            while conn.execute(query, (database,)).fetchone() != (sessions,):
                assert time.monotonic() < deadline, f"{sessions} sessions never waited"
                time.sleep(0.005)

    # -- processes ----------------------------------------------------------------------------------------

    def start_migrate(self, dsn: str) -> subprocess.Popen[str]:
        """``farebox.migrate.apply`` in a process of its own; prints the ids applied."""
        return self._start([sys.executable, "-c", _APPLY, dsn])

    def start_yoyo(self, command: str, url: str, *options: str) -> subprocess.Popen[str]:
        """The plain yoyo command on the migrations of the checkout."""
        yoyo = [sys.executable, "-m", "yoyo", command, "--batch", "--no-config-file", "-d", url]
        return self._start([*yoyo, *options, str(migrations_dir())])

    def _start(self, command: Sequence[str]) -> subprocess.Popen[str]:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._processes.append(process)
        return process

    def yoyo(self, command: str, url: str, *options: str) -> str:
        """Runs the plain yoyo command to its end and returns what it printed."""
        output, errors = self.start_yoyo(command, url, *options).communicate(timeout=120)
        assert not errors or "Traceback" not in errors, errors
        return output

    def yoyo_url(self, database: str, login: str | None = None) -> str:
        """The address as yoyo wants it, with the schema of the bookkeeping."""
        url = self.dsn(database, login).replace("postgresql:", "postgresql+psycopg:")
        return f"{url}?schema=farebox_migrations"

    # -- the end ------------------------------------------------------------------------------------------

    def clean(self) -> None:
        """Ends what was started, drops what was made."""
        for process in self._processes:
            process.kill()
            process.communicate()
        for conn in self._connections:
            conn.close()
        for (name,) in self.execute(
            "postgres",
            "select datname from pg_database where datname not in ('postgres', 'template0', 'template1')",
        ):
            self.drop_database(name)
        # One role can stand in another's way (as grantor of a membership), so it takes rounds.
        while roles := self.execute("postgres", "select rolname from pg_roles where oid >= 16384"):
            for (name,) in roles:
                with contextlib.suppress(psycopg.errors.DependentObjectsStillExist):
                    self.execute("postgres", sql.SQL("drop role {}").format(sql.Identifier(name)))
