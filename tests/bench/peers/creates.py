"""Creating tickets: transactions of a batch, over as many connections each."""

# The packages are not Farebox's (requirements.txt); tests/typings has what is used of them.
# pyright: reportMissingModuleSource=false

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import psycopg
import sqlalchemy as sa
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.dialects import postgresql

from farebox.bench.contest import Connection, Contender, compete, creating
from farebox.bench.payments import FARE, Payment, new_batches, open_companies, texts
from farebox.bench.place import Place, connect
from farebox.bench.report import Check, Report

Rows = list[dict[str, Any]]

_COMMISSION = FARE // 20
_COLUMNS = (
    *("id", "company_id", "route_id", "amount", "commission_rate"),
    *("monime_transaction_id", "passenger_phone", "monime_otp"),
)
_LIST = ", ".join(_COLUMNS)


@dataclass(frozen=True)
class Peer:
    """What it is called, how it does a batch, and what Farebox does besides."""

    name: str
    do: Callable[[Connection, Rows], None]
    schema: str


def _tables(conn: Connection, schema: str) -> None:
    conn.execute(f"create schema {schema}".encode())
    for table in ("tickets", "transactions"):
        conn.execute(f"create table {schema}.{table} (like farebox.{table} including all)".encode())


# -- the seed's flow: select, insert, insert; a transaction a payment ---------------------------------------


def seed(conn: Connection, batch: Rows) -> None:
    for row in batch:
        with conn.transaction():
            found = conn.execute(
                "select id from peer_seed.tickets where monime_transaction_id = %(monime_transaction_id)s",
                row,
            ).fetchone()
            if found is not None:
                continue
            try:
                with conn.transaction():
                    conn.execute(_INSERT.format("peer_seed", "").encode(), row)
                    conn.execute(_RECORD.format("peer_seed").encode(), row)
            except psycopg.errors.UniqueViolation:
                continue


_INSERT = f"insert into {{}}.tickets ({_LIST}) values ({', '.join(f'%({c})s' for c in _COLUMNS)}) {{}}"
_RECORD = (
    "insert into {0}.transactions (ticket_id, company_id, amount, commission, net_amount)"
    f" select id, company_id, amount, {_COMMISSION}, amount - {_COMMISSION}"
    " from {0}.tickets where id = %(id)s"
)

# -- a loop in PL/pgSQL with a block for exceptions around each row -----------------------------------------

_LOOP = f"""
create function peer_loop.create(p_batch json) returns table (ordinal int, outcome text, ticket_id uuid)
language plpgsql as $$
declare v record; v_id uuid; v_ordinal int := 0;
begin
  for v in select * from json_to_recordset(p_batch) as r (id uuid, company_id uuid, route_id uuid,
    amount bigint, commission_rate numeric, monime_transaction_id text, passenger_phone text, monime_otp text)
  loop
    v_ordinal := v_ordinal + 1;
    begin
      insert into peer_loop.tickets as t ({_LIST}) values (v.id, v.company_id, v.route_id, v.amount,
        v.commission_rate, v.monime_transaction_id, v.passenger_phone, v.monime_otp) returning t.id into v_id;
      insert into peer_loop.transactions values (v_id, v.company_id, v.amount, {_COMMISSION},
        v.amount - {_COMMISSION});
      return query select v_ordinal, 'created', v_id;
    exception when unique_violation then
      select t.id into v_id from peer_loop.tickets as t
      where t.monime_transaction_id = v.monime_transaction_id;
      return query select v_ordinal, 'duplicate', v_id;
    end;
  end loop;
end $$
"""


def loop(conn: Connection, batch: Rows) -> None:
    text = json.dumps(batch, default=str)
    conn.execute("select * from peer_loop.create(%s)", [text]).fetchall()


# -- psycopg: executemany, which sends a pipeline -----------------------------------------------------------


def executemany(conn: Connection, batch: Rows) -> None:
    with conn.pipeline(), conn.transaction(), conn.cursor() as cur:
        cur.executemany(
            _INSERT.format("peer_psycopg", "on conflict (monime_transaction_id) do nothing").encode(), batch
        )
        cur.executemany(_RECORD.format("peer_psycopg").encode(), batch)


# -- SQLAlchemy 2: one insert of many values, with ON CONFLICT and RETURNING ---------------------------------


class SqlAlchemy:
    """A connection of its own for each thread."""

    def __init__(self, dsn: str) -> None:
        c = {name: str(value) for name, value in conninfo_to_dict(dsn).items()}
        url = sa.URL.create(
            "postgresql+psycopg", c["user"], c["password"], c["host"], int(c["port"]), c["dbname"]
        )
        self._engine = sa.create_engine(url, pool_size=8)
        meta = sa.MetaData(schema="peer_sqlalchemy")
        self._tickets = sa.Table("tickets", meta, autoload_with=self._engine)
        self._records = sa.Table("transactions", meta, autoload_with=self._engine)

    def __call__(self, _: Connection, batch: Rows) -> None:
        t = self._tickets
        statement = (
            postgresql.insert(t)
            .on_conflict_do_nothing(index_elements=["monime_transaction_id"])
            .returning(t.c.id, t.c.company_id, t.c.amount)
        )
        with self._engine.begin() as conn:
            created = conn.execute(statement, batch).all()
            if created:
                conn.execute(
                    sa.insert(self._records),
                    [
                        {
                            "ticket_id": row.id,
                            "company_id": row.company_id,
                            "amount": row.amount,
                            "commission": _COMMISSION,
                            "net_amount": row.amount - _COMMISSION,
                        }
                        for row in created
                    ],
                )

    def close(self) -> None:
        self._engine.dispose()


# -- asyncpg ------------------------------------------------------------------------------------------------


class Asyncpg:
    """An event loop and a connection for each thread; `how` says which of its ways."""

    def __init__(self, dsn: str, schema: str, how: str) -> None:
        c = conninfo_to_dict(dsn)
        names = {"host": "host", "port": "port", "user": "user", "password": "password", "dbname": "database"}
        self._options = {to: c[name] for name, to in names.items()}
        self._local = threading.local()
        self._open: list[tuple[asyncio.AbstractEventLoop, Any]] = []
        self._how = how
        places = ", ".join(f"${n}" for n in range(1, len(_COLUMNS) + 1))
        kinds = ("uuid", "uuid", "uuid", "bigint", "numeric", "text", "text", "text")
        arrays = ", ".join(f"${n}::{kind}[]" for n, kind in enumerate(kinds, 1))
        nothing = "on conflict (monime_transaction_id) do nothing"
        self._insert = f"insert into {schema}.tickets ({_LIST}) values ({places}) {nothing}"
        self._record = _RECORD.format(schema).replace("%(id)s", "$1")
        self._unnest = (
            f"with made as (insert into {schema}.tickets ({_LIST}) select * from unnest({arrays}) {nothing}"
            f" returning id, company_id, amount) insert into {schema}.transactions"
            f" (ticket_id, company_id, amount, commission, net_amount)"
            f" select id, company_id, amount, {_COMMISSION}, amount - {_COMMISSION} from made"
            " returning ticket_id"
        )

    def __call__(self, _: Connection, batch: Rows) -> None:
        if not hasattr(self._local, "loop"):
            self._local.loop = asyncio.new_event_loop()
            self._local.conn = self._local.loop.run_until_complete(asyncpg.connect(**self._options))
            self._open.append((self._local.loop, self._local.conn))
        rows = [tuple(row[c] for c in _COLUMNS) for row in batch]
        self._local.loop.run_until_complete(self._send(self._local.conn, rows))

    async def _send(self, conn: Any, rows: list[tuple[Any, ...]]) -> None:
        if self._how == "unnest":
            await conn.fetch(self._unnest, *map(list, zip(*rows, strict=True)))
            return
        async with conn.transaction():
            await conn.executemany(self._insert, rows)
            await conn.executemany(self._record, [row[:1] for row in rows])

    def close(self) -> None:
        for event_loop, conn in self._open:
            event_loop.run_until_complete(conn.close())
            event_loop.close()


# -- the contest --------------------------------------------------------------------------------------------


def run(place: Place, batch: int, connections: int, rows: int, rounds: int) -> Report:
    """All of them in one database."""
    report = Report(
        "peers: create",
        {"batch": batch, "connections": connections, "rows": rows, "rounds": rounds, "duplicate_share": 0.0},
    )
    sellers = open_companies(place.dsn, 10)
    alchemy_schema = "peer_sqlalchemy"
    with connect(place.dsn) as conn:
        for schema in ("peer_seed", "peer_loop", "peer_psycopg", alchemy_schema, "peer_many", "peer_unnest"):
            _tables(conn, schema)
        conn.execute(_LOOP.encode())
    alchemy = SqlAlchemy(place.dsn)
    many = Asyncpg(place.dsn, "peer_many", "executemany")
    unnest = Asyncpg(place.dsn, "peer_unnest", "unnest")
    peers = [
        Peer("select, insert, insert; a transaction each", seed, "peer_seed"),
        Peer("PL/pgSQL loop with exception blocks", loop, "peer_loop"),
        Peer("psycopg executemany in a pipeline", executemany, "peer_psycopg"),
        Peer("SQLAlchemy bulk insert on conflict", alchemy, alchemy_schema),
        Peer("asyncpg executemany", many, "peer_many"),
        Peer("asyncpg unnest of arrays, one statement", unnest, "peer_unnest"),
    ]

    def payments() -> list[list[Payment]]:
        return new_batches(sellers, rows, batch)

    def as_rows() -> list[Rows]:
        return [[_row(payment) for payment in one] for one in payments()]

    def counting(peer: Peer) -> Callable[[Connection, Rows], Counter[str]]:
        def do(conn: Connection, work: Rows) -> Counter[str]:
            peer.do(conn, work)
            return Counter()

        return do

    contenders: list[Contender[Any]] = [creating("farebox create_tickets", lambda: texts(payments()), rows)]
    contenders += [Contender(peer.name, as_rows, counting(peer), rows) for peer in peers]
    tickets = compete(
        report, place.dsn, contenders, connections=connections, rounds=rounds, tell=lambda _: None
    )
    report.verify(place.dsn, tickets=tickets)
    for peer in peers:
        _check(report, place.dsn, peer, rows * (rounds + 1), as_rows()[0])
    alchemy.close()
    many.close()
    unnest.close()
    return report


def _row(payment: Payment) -> dict[str, Any]:
    ids = {name: UUID(payment[name]) for name in ("company_id", "route_id")}
    return payment | ids | {"id": uuid4(), "commission_rate": 0.05}


def _check(report: Report, dsn: str, peer: Peer, expected: int, batch: Sequence[Any]) -> None:
    """All there, each with its record; and what comes twice makes one ticket."""
    broken = f"""
      select count(*) from {peer.schema}.tickets as t
      full join {peer.schema}.transactions as x on x.ticket_id = t.id
      where t.id is null or x.ticket_id is null or x.amount <> t.amount or x.commission <> {_COMMISSION}
        or x.net_amount <> x.amount - x.commission or x.company_id <> t.company_id
    """
    with connect(dsn) as conn:
        peer.do(conn, list(batch))
        peer.do(conn, [row | {"id": uuid4()} for row in batch])
        [(count,)] = conn.execute(f"select count(*) from {peer.schema}.tickets".encode()).fetchall()
        [(wrong,)] = conn.execute(broken.encode()).fetchall()
    report.checks += [
        Check(f"{peer.name}: tickets, a batch sent twice included", expected + len(batch), count),
        Check(f"{peer.name}: tickets and records that do not fit", 0, wrong),
    ]
