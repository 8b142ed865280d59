"""A router and its shards for tests: databases of the shared server, emptied between tests."""

from __future__ import annotations

import hashlib
import itertools
import json
import secrets
import time
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID, uuid4

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from farebox._files import db_dir
from farebox.shards import Layout, ShardDsn, init
from tests.support.database import Database, Parameters, Row
from tests.support.servers import Server

SHARDS = ("one", "two", "three")
TABLES = (
    *("companies", "routes", "payment_codes", "tickets", "transactions", "unapplied_payments"),
    *("company_logins", "ticket_queue", "ticket_queue_dead", "ticket_queue_pauses"),
)
# Those that have had rows: to truncate an empty table takes as long as a full one.
_EMPTY = sql.SQL(
    """
    do $$
    declare
      v_tables text := (
        select string_agg(c.oid::regclass::text, ', ') from pg_catalog.pg_class as c
        where c.oid = any ({}::regclass[]) and pg_catalog.pg_relation_size(c.oid) > 0);
    begin
      if v_tables is not null then
        execute 'truncate ' || v_tables || ' cascade';
      end if;
    end
    $$
    """
).format(sql.Literal([f"farebox.{name}" for name in (*TABLES, "claims", "foreign_subjects")]))
_CLOCK: LiteralString = "select prosrc from pg_catalog.pg_proc where oid = 'farebox._now()'::regprocedure"

_serial = itertools.count(1)


_FORWARD = """
create function shown.forward() returns trigger language plpgsql as $$
begin
  execute format('insert into shown.%I select ($1).*', tg_table_name || '_' || (
    select s.name from farebox.partitions as p join farebox.shards as s on s.shard = p.shard
    where p.partition = farebox._partition_of(to_jsonb(new) ->> tg_argv[0]))) using new;
  return null;
end
$$
"""


def clone(server: Server, database: str, template: str) -> None:
    """A copy of a database in which nobody is."""
    with server.connect() as conn:
        conn.execute(
            sql.SQL("create database {} template {} strategy file_copy").format(
                sql.Identifier(database), sql.Identifier(template)
            )
        )


class Sharded:
    """A router and three shards, all databases of one server, clones of the tests' template or of another."""

    def __init__(self, server: Server, *, registry: bool = True, template: str | None = None) -> None:
        self.server = server
        self.suffix = secrets.token_hex(4)
        self.names = {name: f"shard_{name}_{self.suffix}" for name in SHARDS}
        self.router_name = f"router_{self.suffix}"
        for on, database in (
            (server, self.router_name),
            *((self.server_of(name), database) for name, database in self.names.items()),
        ):
            if template is None:
                on.create_database(database)
            else:
                clone(on, database, template)
        self.dsn = server.dsn(self.router_name)
        self._conns: dict[str, psycopg.Connection[Row]] = {}
        self.layout: Layout = init(
            self.dsn, [ShardDsn(name, self.shard_dsn(name)) for name in self.names], registry=registry
        )
        self._clock = self._on(self.dsn, _CLOCK)

    def server_of(self, name: str) -> Server:  # noqa: ARG002 - others have more than one server
        """Where that shard is."""
        return self.server

    def shard_dsn(self, name: str) -> str:
        """Of the superuser."""
        return self.server_of(name).dsn(self.names[name])

    def on(
        self,
        name: str,
        query: LiteralString | sql.Composed | sql.SQL,
        params: Parameters | None = None,
    ) -> list[Row]:
        """Runs one statement on a shard as superuser."""
        return self._on(self.shard_dsn(name), query, params)

    def _on(
        self, dsn: str, query: LiteralString | sql.Composed | sql.SQL, params: Parameters | None = None
    ) -> list[Row]:
        """In a session that is kept: most of a short test would be spent on new ones."""
        conn = self._conns.get(dsn)
        if conn is None or conn.closed:
            conn = self._conns[dsn] = psycopg.connect(
                dsn, autocommit=True, connect_timeout=30, prepare_threshold=None
            )
        try:
            cursor = conn.execute(query, params)
        except psycopg.OperationalError:
            if not conn.closed:
                raise
            return self._on(dsn, query, params)  # its server was killed meanwhile
        return cursor.fetchall() if cursor.description else []

    def close(self) -> None:
        """Ends the sessions that are kept."""
        for conn in self._conns.values():
            conn.close()
        self._conns.clear()

    def on_all(
        self, query: LiteralString | sql.Composed | sql.SQL, params: Parameters | None = None
    ) -> list[Row]:
        """On every shard, one after the other."""
        return [row for name in SHARDS for row in self.on(name, query, params)]

    def shard_of(self, key: UUID | str) -> int:
        """The number of the shard of a company, or that has a payment in the registry, as the guide says."""
        digest = hashlib.md5(str(key).encode()).hexdigest()
        partition = int(digest[:8], 16) % self.layout.partitions
        [number] = [shard.number for shard in self.layout.shards if partition in shard.partitions]
        return number

    def company_on(self, name: str) -> UUID:
        """An id of a company, not there yet, that belongs on that shard."""
        while self.shard_of(company := uuid4()) != self.layout.shard(name).number:
            pass
        return company

    def payment_at(self, name: str) -> str:
        """A new transaction id that the registry has on that shard."""
        while self.shard_of(payment := f"pay-{secrets.token_hex(8)}") != self.layout.shard(name).number:
            pass
        return payment

    def look_again(self, conn: psycopg.Connection[Any]) -> None:
        """The router's next call looks at the shards that were found lost."""
        conn.execute("set role farebox_owner")
        conn.execute(
            "select setval(farebox._down_sequence(d.shard), 1)"
            " from farebox._down_untils() as d where d.until > 0"
        )
        conn.execute("reset role")

    def wait_until_seen(self) -> None:
        """Returns when the router sees the shard again: it looks when its time is over, which is now."""
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            self.look_again(conn)
            conn.execute("set role farebox_owner")
            deadline = time.monotonic() + 30
            while conn.execute("select farebox._shards_down() = '{}'").fetchone() != (True,):
                assert time.monotonic() < deadline
                time.sleep(0.002)

    def empty(self) -> None:
        """Empties all shards."""
        self.on_all(_EMPTY)

    def clean(self) -> None:
        """Empties all shards, and has all clocks go again."""
        self.empty()
        for dsn in (self.dsn, *map(self.shard_dsn, SHARDS)):
            if self._on(dsn, _CLOCK) != self._clock:
                clock = (db_dir() / "functions/_now.sql").read_text()
                with psycopg.connect(dsn, autocommit=True) as conn:
                    conn.execute(clock.replace("create function", "create or replace function").encode())

    def drop(self) -> None:
        """Drops the databases and the router's login."""
        self.close()
        self.server.drop_database(self.router_name)
        for name, database in self.names.items():
            self.server_of(name).drop_database(database)
        with self.server.connect() as conn:
            conn.execute(sql.SQL("drop role if exists {}").format(sql.Identifier(self.layout.login)))


class RoutedDatabase(Database):
    """The router as the tests of one database know it.

    Its tables show the shards' rows (foreign tables that inherit from them, made for tests), so what a test
    looks up in a table it finds. Companies, routes and codes are made by the functions.
    """

    def __init__(self, sharded: Sharded) -> None:
        super().__init__(sharded.server, sharded.router_name)
        self.sharded = sharded

    def close(self) -> None:
        """Ends all sessions, and empties the shards; the router stays."""
        self.disconnect()
        with self.server.connect(self.name) as conn:
            for login in self._logins:
                conn.execute(sql.SQL("drop owned by {0}; drop role {0}").format(sql.Identifier(login)))
        self.sharded.clean()

    def disconnect_own(self) -> None:
        """Ends the session of `execute`; the next one opens another."""
        if self._own is not None:
            self._own.close()

    def show_tables(self) -> None:
        """Makes the router's tables show the shards' rows."""
        user = sql.Literal(conninfo_to_dict(self.dsn)["user"])
        with self.server.connect(self.name) as conn:
            conn.execute("create extension postgres_fdw; create schema shown")
            # PostgreSQL has no transition tables of foreign tables; the shards' own triggers do fire.
            for table, event in itertools.product(("companies", "routes"), ("update", "delete")):
                trigger = sql.Identifier(f"{table}_notify_{event}")
                conn.execute(sql.SQL("drop trigger {} on farebox.{}").format(trigger, sql.Identifier(table)))
            for name, database in self.sharded.names.items():
                shard = sql.Identifier(f"look_{name}")
                server = self.sharded.server_of(name)
                secret = sql.Literal(server.password)
                conn.execute(
                    sql.SQL(
                        "create server {0} foreign data wrapper postgres_fdw"
                        " options (host '127.0.0.1', port {1}, dbname {2});"
                        " create user mapping for public server {0} options (user {3}, password {4})"
                    ).format(shard, sql.Literal(str(server.port)), sql.Literal(database), user, secret)
                )
                for table in TABLES:
                    conn.execute(
                        sql.SQL(
                            "create foreign table shown.{0} () inherits (farebox.{1}) server {2}"
                            " options (schema_name 'farebox', table_name {3})"
                        ).format(
                            sql.Identifier(f"{table}_{name}"),
                            sql.Identifier(table),
                            shard,
                            sql.Literal(table),
                        )
                    )

            # What a test inserts into a table goes to its company's shard.
            conn.execute(_FORWARD)
            for table in ("companies", "routes", "payment_codes"):
                conn.execute(
                    sql.SQL(
                        "create trigger forward before insert on farebox.{}"
                        " for each row execute function shown.forward({})"
                    ).format(
                        sql.Identifier(table), sql.Literal("id" if table == "companies" else "company_id")
                    )
                )

        self.accept_rows()
        self.disconnect_own()

    def accept_rows(self) -> None:
        """Inserts are passed on; `init` has them refused again."""
        for table in TABLES:
            self.execute(
                sql.SQL("drop trigger if exists refuse_rows on farebox.{}").format(sql.Identifier(table))
            )

    def _made(self, function: LiteralString, **fields: Any) -> UUID:
        given = {key: value for key, value in fields.items() if value is not None}
        [(outcome, reason, made)] = self.execute(
            sql.SQL("select outcome, reason, id from farebox.{}(%s::json)").format(sql.Identifier(function)),
            [json.dumps([given], default=str)],
        )
        assert outcome == "created", reason
        assert isinstance(made, UUID)
        return made

    def company(self, *, rate: str = "0.05", status: str = "active") -> UUID:
        """A new company."""
        return self._made(
            "upsert_companies", name=f"Company {next(_serial)}", commission_rate=rate, status=status
        )

    def route(self, company: UUID, *, fare: int = 5000, status: str = "active") -> UUID:
        """A new route of that company."""
        return self._made(
            "upsert_routes",
            company_id=company,
            name=f"Route {next(_serial)}",
            origin="Freetown",
            destination="Bo",
            fare=fare,
            status=status,
        )

    def code(
        self,
        company: UUID,
        total_tickets: int,
        *,
        route: UUID | None = None,
        expires_at: datetime | None = None,
    ) -> str:
        """A new active payment code of that company, unused."""
        code = f"*815*{next(_serial)}#"
        self._made(
            "issue_payment_codes",
            company_id=company,
            route_id=route,
            code=code,
            total_tickets=total_tickets,
            expires_at=expires_at,
        )
        return code

    def wait_for_blocked(self, sessions: int) -> None:
        """Returns when at least so many sessions wait for a lock on the shards."""
        self.wait_until(
            "select count(*) >= %s from pg_catalog.pg_stat_activity"
            " where datname = any (%s) and wait_event_type = 'Lock'",
            [sessions, list(self.sharded.names.values())],
        )

    def on_tables(
        self, query: LiteralString | sql.Composed | sql.SQL, params: Parameters | None = None
    ) -> None:
        """Runs one statement on the router and on every shard."""
        self.execute(query, params)
        self.sharded.on_all(query, params)
