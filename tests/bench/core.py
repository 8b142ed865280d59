"""The SQL core against its floor: ``create_tickets`` beside COPY into copies of the same tables, in one run.

Each round runs every contender once, taking turns in who goes first, on the same server with the same
durable settings; medians of the rounds and their ratios are printed. Rounds are short and many, because the
machine's pace changes within seconds. Both sides get ready-made text, and answers are received whole and
counted, but not made into Python objects (``--objects`` does): no client is measured.

The floor is COPY of tickets and of transaction records, one transaction a batch, into tables with the same
columns, constraints and indexes; it checks nothing, looks nothing up and answers nothing.

    python -m tests.bench core --server pg15 --batch 100
"""

import argparse
import json
import random
import statistics
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg import sql

from tests.bench.support import bench_database

FLOOR = "COPY, the floor"
_EVEN = "tables of the same size"
_CODE = "BENCH-HOT"


@dataclass
class Catalog:
    """Companies with a route each, and a payment code each that never runs out."""

    places: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    @classmethod
    def make(cls, conn: psycopg.Connection[Any], companies: int) -> "Catalog":
        catalog = cls([(str(uuid.uuid4()), str(uuid.uuid4())) for _ in range(companies)])
        with conn.cursor() as cur:
            cur.executemany(
                "insert into farebox.companies (id, name) values (%s, 'Bench')",
                [(c,) for c, _ in catalog.places],
            )
            cur.executemany(
                "insert into farebox.routes (id, company_id, name, origin, destination, fare)"
                " values (%s, %s, 'Bench', 'A', 'B', 5000)",
                [(r, c) for c, r in catalog.places],
            )
            cur.executemany(
                "insert into farebox.payment_codes (company_id, code, total_tickets)"
                " values (%s, %s, 2000000000)",
                [(c, f"{_CODE}-{c}") for c, _ in catalog.places],
            )
        return catalog

    def requests(self, count: int, *, coded: float = 0.0) -> list[dict[str, Any]]:
        """New payments of random companies; the share ``coded`` of them carries the company's code."""
        requests: list[dict[str, Any]] = []
        for _ in range(count):
            company, route = random.choice(self.places)
            request: dict[str, Any] = {
                "company_id": company,
                "route_id": route,
                "passenger_phone": f"+23276{random.randrange(10**6):06}",
                "monime_transaction_id": f"pay-{uuid.uuid4().hex}",
                "monime_otp": f"{random.randrange(10**6):06}",
                "amount": 5000,
            }
            if random.random() < coded:
                request["payment_code"] = f"{_CODE}-{company}"
            requests.append(request)
        return requests


def _uuid_v7() -> uuid.UUID:
    return uuid.UUID(
        int=(time.time_ns() // 10**6 << 80)
        | (7 << 76)
        | (random.getrandbits(12) << 64)
        | (2 << 62)
        | random.getrandbits(62)
    )


def copy_text(requests: list[dict[str, Any]]) -> tuple[str, str]:
    """The rows of both tables as COPY reads them."""
    tickets: list[str] = []
    records: list[str] = []
    now = datetime.now(UTC).isoformat()  # one time a batch, as the function has it: the indexes hold it
    for request in requests:
        ticket_id = _uuid_v7()
        company = request["company_id"]
        tickets.append(
            f"{ticket_id}\t{company}\t{request['route_id']}\t5000\t{now}\t0.05\t"
            f"{request['monime_transaction_id']}\t{request['passenger_phone']}\t{request['monime_otp']}\n"
        )
        records.append(f"{ticket_id}\t{company}\t5000\t250\t4750\t{now}\n")
    return "".join(tickets), "".join(records)


def run_function(conn: psycopg.Connection[Any], batches: list[str], *, objects: bool = False) -> Counter[str]:
    """Sends each batch as its own transaction; returns how often each outcome came back."""
    outcomes: Counter[str] = Counter()
    with conn.cursor() as cur:
        for batch in batches:
            cur.execute("select * from farebox.create_tickets(%s)", (batch,))
            if objects:
                outcomes.update(row[2] for row in cur.fetchall())
            elif result := cur.pgresult:
                column = [bytes(result.get_value(row, 2) or b"") for row in range(result.ntuples)]
                outcomes.update(value.decode() for value in column)
    return outcomes


def run_copy(conn: psycopg.Connection[Any], batches: list[tuple[str, str]]) -> None:
    """Copies each batch in its own transaction."""
    with conn.cursor() as cur:
        for tickets, records in batches:
            with conn.transaction():
                with cur.copy(
                    "copy bench.tickets (id, company_id, route_id, amount, created_at, commission_rate,"
                    " monime_transaction_id, passenger_phone, monime_otp) from stdin"
                ) as copy:
                    copy.write(tickets)
                with cur.copy(
                    "copy bench.transactions (ticket_id, company_id, amount, commission, net_amount,"
                    " created_at) from stdin"
                ) as copy:
                    copy.write(records)


def _contenders(
    conn: psycopg.Connection[Any], catalog: Catalog, batch: int, rows: int, *, objects: bool
) -> dict[str, Callable[[], object]]:
    """New work for one round of each contender, made before anything is timed.

    Whoever repeats the payments of ``create_tickets`` comes after it. ``_EVEN`` is not a contender: it keeps
    the floor's tables as large as those of the function, which take the payments with codes as well.
    """

    def call(batches: list[str]) -> Callable[[], object]:
        return lambda: run_function(conn, batches, objects=objects)

    def batches(coded: float = 0.0) -> list[list[dict[str, Any]]]:
        return [catalog.requests(batch, coded=coded) for _ in range(rows // batch)]

    created = [json.dumps(b) for b in batches()]
    half_coded = [json.dumps(b) for b in batches(0.5)]
    copied = [copy_text(b) for b in batches()]
    conflicting = [text.replace('"amount": 5000', '"amount": 6000') for text in created]
    further = [copy_text(b) for b in batches()]
    return {
        "create_tickets": call(created),
        FLOOR: lambda: run_copy(conn, copied),
        "half with codes": call(half_coded),
        "duplicates only": call(created),
        "conflicts only": call(conflicting),
        _EVEN: lambda: run_copy(conn, further),
    }


def _in_turn(names: list[str], round_no: int) -> list[str]:
    """The first three change places from round to round; the others follow."""
    turn = round_no % 3
    return [*names[turn:3], *names[:turn], *names[3:]]


def _report(rates: dict[str, list[float]], analysed_from: int) -> None:
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, rate in medians.items():
        own, floor = rate / medians["create_tickets"], rate / medians[FLOOR]
        print(f"  {name:18} {rate:8,.0f}/s   x create_tickets {own:5.2f}   x COPY {floor:5.2f}")
    over = [a / b for a, b in zip(rates["create_tickets"], rates[FLOOR], strict=True)]
    before, after = statistics.median(over[:analysed_from]), statistics.median(over[analysed_from:])
    print(f"  create_tickets over COPY, round by round: never analysed {before:.2f}, analysed {after:.2f}")


def main(argv: list[str]) -> None:
    """Runs the comparison and prints it."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench core")
    parser.add_argument("--server", default="pg15", choices=["pg15", "pg18"])
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--rows", type=int, default=4_000, help="rows of each contender in each round")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--companies", type=int, default=10)
    parser.add_argument("--objects", action="store_true", help="make Python objects of the answers")
    args = parser.parse_args(argv)

    with bench_database(args.server) as db, db.connect(autocommit=True) as conn:
        conn.execute("create schema bench")
        for table in ("tickets", "transactions"):
            conn.execute(
                sql.SQL("create table bench.{0} (like farebox.{0} including all)").format(
                    sql.Identifier(table)
                )
            )
        catalog = Catalog.make(conn, args.companies)
        rates: dict[str, list[float]] = {}
        for round_no in range(args.rounds + 1):
            contenders = _contenders(conn, catalog, args.batch, args.rows, objects=args.objects)
            for name in _in_turn(list(contenders), round_no):
                start = time.perf_counter()
                contenders[name]()
                rate = args.rows / (time.perf_counter() - start)
                if round_no and name != _EVEN:  # the first round only fills caches
                    rates.setdefault(name, []).append(rate)
            if round_no == args.rounds // 2:
                conn.execute("analyze")  # the first half ran on a database that nobody had analysed

        broken = conn.execute("select count(*) from farebox.verify()").fetchall()[0][0]
        dead = conn.execute(
            "select coalesce(sum(n_dead_tup), 0) from pg_stat_user_tables"
            " where schemaname = 'farebox' and relname in ('tickets', 'transactions')"
        ).fetchall()[0][0]
        print(
            f"{args.server}, batches of {args.batch}, {args.rounds} rounds of {args.rows:,} rows,"
            f" {args.companies} companies"
        )
        _report(rates, args.rounds // 2)
        print(f"  verify() found {broken} problems, dead rows {dead}")
