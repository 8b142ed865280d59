"""The floor: COPY, which checks nothing, looks nothing up and answers nothing.

Into copies of the same two tables with the same columns, constraints and indexes, a transaction a batch; and
the lean one, into a single table with a time-ordered key and a unique payment.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import psycopg

from farebox._ids import uuid_v7
from farebox.bench.contest import Connection, Contender
from farebox.bench.payments import Payment
from farebox.bench.place import FLOOR_SCHEMA, connect

FLOOR: Final = "COPY into the same tables"
LEAN: Final = "COPY into one lean table"

_SQL: Final = f"""
create schema {FLOOR_SCHEMA};
create table {FLOOR_SCHEMA}.tickets (like farebox.tickets including all);
create table {FLOOR_SCHEMA}.transactions (like farebox.transactions including all);
create table {FLOOR_SCHEMA}.lean (
  id uuid primary key, company_id uuid not null, route_id uuid not null, passenger_phone text not null,
  monime_transaction_id text collate "C" not null unique, monime_otp text not null, amount bigint not null,
  created_at timestamptz not null)
"""
_TICKETS: Final = (
    f"copy {FLOOR_SCHEMA}.tickets (id, company_id, route_id, amount, created_at, commission_rate,"
    " monime_transaction_id, passenger_phone, monime_otp) from stdin"
)
_TRANSACTIONS: Final = (
    f"copy {FLOOR_SCHEMA}.transactions (ticket_id, company_id, amount, commission, net_amount, created_at)"
    " from stdin"
)
_LEAN: Final = (
    f"copy {FLOOR_SCHEMA}.lean (id, company_id, route_id, passenger_phone, monime_transaction_id, monime_otp,"
    " amount, created_at) from stdin"
)


def floors(dsn: str, make: Callable[[], Sequence[Sequence[Payment]]], rows: int) -> list[Contender[Any]]:
    """Both, with tables of their own in that database."""
    with connect(dsn) as conn:
        conn.execute(_SQL)
    return [
        Contender(FLOOR, lambda: [_both(batch) for batch in make()], _copy, rows),
        Contender(LEAN, lambda: [_lean(batch) for batch in make()], _copy_lean, rows),
    ]


def _copy(conn: Connection, batch: tuple[str, str]) -> Counter[str]:
    tickets, records = batch
    with conn.transaction(), conn.cursor() as cur:
        _send(cur, _TICKETS, tickets)
        _send(cur, _TRANSACTIONS, records)
    return Counter()


def _copy_lean(conn: Connection, batch: str) -> Counter[str]:
    with conn.cursor() as cur:
        _send(cur, _LEAN, batch)
    return Counter()


def _send(cur: psycopg.Cursor[Any], statement: str, text: str) -> None:
    with cur.copy(statement.encode()) as copy:
        copy.write(text)


def _both(batch: Sequence[Payment]) -> tuple[str, str]:
    # One time a batch, as the function has it: the indexes hold it.
    now = datetime.now(UTC).isoformat()
    tickets: list[str] = []
    records: list[str] = []
    for p in batch:
        ticket = uuid_v7()
        tickets.append(
            f"{ticket}\t{p['company_id']}\t{p['route_id']}\t{p['amount']}\t{now}\t0.05\t"
            f"{p['monime_transaction_id']}\t{p['passenger_phone']}\t{p['monime_otp']}\n"
        )
        commission = p["amount"] // 20
        records.append(
            f"{ticket}\t{p['company_id']}\t{p['amount']}\t{commission}\t{p['amount'] - commission}\t{now}\n"
        )
    return "".join(tickets), "".join(records)


def _lean(batch: Sequence[Payment]) -> str:
    now = datetime.now(UTC).isoformat()
    return "".join(
        f"{uuid_v7()}\t{p['company_id']}\t{p['route_id']}\t{p['passenger_phone']}\t"
        f"{p['monime_transaction_id']}\t{p['monime_otp']}\t{p['amount']}\t{now}\n"
        for p in batch
    )
