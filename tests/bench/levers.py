"""What could make writing, reading or committing faster, each beside what Farebox does; by turns, medians.

``--what write``: a batch of ready-made columns into copies of `farebox.tickets`, each with one thing changed.
``--what read``: the requests of a batch taken apart, and nothing else, in several forms.
``--what commit``: `create_tickets` with a commit that waits for others (`commit_delay`, in microseconds).

    python -m tests.bench levers --what write --server pg15
"""

from __future__ import annotations

import argparse
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from psycopg.conninfo import make_conninfo

from farebox._ids import uuid_v7
from farebox.bench.contest import Connection, Contender, compete, creating
from farebox.bench.payments import Payment, Seller, new_batches, open_companies, texts
from farebox.bench.place import connect
from farebox.bench.report import Report
from tests.bench.support import bench_database
from tests.support.database import Database

# -- writing ------------------------------------------------------------------------------------------------

_COLUMNS: Final = (
    *("id", "company_id", "route_id", "amount", "created_at", "commission_rate"),
    *("monime_transaction_id", "passenger_phone", "monime_otp"),
)
_TYPES: Final = ("uuid", "uuid", "uuid", "int8", "timestamptz", "numeric", "text", "text", "text")
_LIST: Final = ", ".join(_COLUMNS)
_ARRAYS: Final = ", ".join(f"%s::{kind}[]" for kind in _TYPES)

_AS_IT_IS: Final = "create table {0}.tickets (like farebox.tickets including all)"
_WITHOUT: Final = _AS_IT_IS + "; drop index {0}.tickets_{1}_idx"
_RANDOM_KEYS: Final = ("monime_transaction_id", "passenger_phone_company_id")
_PARTITIONED: Final = """
create table {0}.tickets (like farebox.tickets including defaults including constraints)
  partition by hash (monime_transaction_id);
create unique index on {0}.tickets (monime_transaction_id);
create index on {0}.tickets (id);
create index on {0}.tickets (company_id, status, created_at);
create index on {0}.tickets (created_at) where status = 'pending';
create index on {0}.tickets (passenger_phone, company_id);
do $$
begin
  for i in 0 .. 15 loop
    execute format('create table {0}.%I partition of {0}.tickets for values with (modulus 16, remainder %s)',
      'part' || i, i);
  end loop;
end
$$
"""
_TABLES: Final = {
    "as it is": _AS_IT_IS,
    "random keys' index pages filled to 70 %": _AS_IT_IS
    + "".join(f"; alter index {{0}}.tickets_{key}_idx set (fillfactor = 70)" for key in _RANDOM_KEYS)
    + "".join(f"; reindex index {{0}}.tickets_{key}_idx" for key in _RANDOM_KEYS),
    "16 partitions by hash of the payment": _PARTITIONED,
    "foreign keys to company, route and code": _AS_IT_IS
    + "; alter table {0}.tickets add foreign key (company_id) references farebox.companies (id),"
    " add foreign key (route_id) references farebox.routes (id),"
    " add foreign key (payment_code_id) references farebox.payment_codes (id)",
    "without the index of phones": _WITHOUT.replace("{1}", "passenger_phone_company_id"),
    "without the index of companies": _WITHOUT.replace("{1}", "company_id_status_created_at"),
    "without the index of pending tickets": _WITHOUT.replace("{1}", "created_at"),
    "ids in no order (version 4)": _AS_IT_IS,
}
_FILL: Final = f"""
insert into {{0}}.tickets ({_LIST})
select farebox._uuid_v7(), (%s::uuid[])[1 + n %% %s], (%s::uuid[])[1 + n %% %s], 5000,
  now() - n * interval '1 ms', 0.05,
  'pay-' || md5(n::text), '+23276' || lpad((n::bigint * 7919 %% 1000000)::text, 6, '0'), '123456'
from generate_series(1, %s) as n
"""


def write(db: Database, size: int, rows: int, filled: int) -> list[Contender[Any]]:
    """The tables, each with so many tickets."""
    sellers = open_companies(db.dsn, 10)
    companies, routes = [s.company for s in sellers], [s.route for s in sellers]
    contenders: list[Contender[Any]] = []
    with connect(db.dsn) as conn:
        for number, (name, table) in enumerate(_TABLES.items()):
            schema = f"lever_{number}"
            conn.execute(f"create schema {schema}".encode())
            for statement in table.format(schema).split("; "):
                conn.execute(statement.encode())
            places = (companies, len(companies), routes, len(routes))
            conn.execute(_FILL.format(schema).encode(), (*places, filled))
            conn.execute(f"vacuum analyze {schema}.tickets".encode())
            new_id = uuid.uuid4 if "version 4" in name else uuid_v7
            contenders.append(
                Contender(name, _columns(sellers, rows, size, new_id), _insert(schema), rows, Counter())
            )
    return contenders


def _columns(
    sellers: Sequence[Seller], rows: int, size: int, new_id: Callable[[], uuid.UUID]
) -> Callable[[], list[list[str]]]:
    def make() -> list[list[str]]:
        return [_transposed(batch, new_id) for batch in new_batches(sellers, rows, size)]

    return make


def _transposed(batch: Sequence[Payment], new_id: Callable[[], uuid.UUID]) -> list[str]:
    made = {"created_at": datetime.now(UTC).isoformat(), "commission_rate": "0.05"}
    return [_array(new_id() for _ in batch), *(_array((p | made)[c] for p in batch) for c in _COLUMNS[1:])]


def _array(values: Iterable[object]) -> str:
    """Ready made, so that no client is measured. None of the values needs a quote escaped."""
    return "{" + ",".join("null" if value is None else f'"{value}"' for value in values) + "}"


def _insert(schema: str) -> Callable[[Connection, list[str]], Counter[str]]:
    return _asked(f"insert into {schema}.tickets ({_LIST}) select * from unnest({_ARRAYS})")


# -- reading ------------------------------------------------------------------------------------------------

_FIELDS: Final = (
    *("company_id", "route_id", "passenger_phone", "monime_transaction_id", "monime_otp", "amount"),
    *("payment_code", "commission_rate"),
)
_AS_TEXT: Final = ", ".join(f"{field} text" for field in _FIELDS)
_RECORDSET: Final = (
    f"select count(*), max(monime_transaction_id) from {{0}}_to_recordset(%s::{{0}}) as r({_AS_TEXT})"
)
_UNNEST: Final = (
    "select count(*), max(monime_transaction_id) from unnest("
    + ", ".join("%s::text[]" for _ in _FIELDS)
    + f") as r({', '.join(_FIELDS)})"
)


def read(db: Database, size: int, rows: int, _filled: int) -> list[Contender[Any]]:
    """The forms."""
    sellers = open_companies(db.dsn, 10)

    def requests() -> list[list[Payment]]:
        return new_batches(sellers, rows, size)

    def columns() -> list[list[str]]:
        return [[_array(p.get(key) for p in batch) for key in _FIELDS] for batch in requests()]

    def lines() -> list[str]:
        return [
            "".join("\t".join(str(p.get(k, "\\N")) for k in _FIELDS) + "\n" for p in b) for b in requests()
        ]

    return [
        Contender("json_to_recordset", lambda: texts(requests()), _asked(_RECORDSET.format("json")), rows),
        Contender("jsonb_to_recordset", lambda: texts(requests()), _asked(_RECORDSET.format("jsonb")), rows),
        Contender("arrays of text, a column each", columns, _asked(_UNNEST), rows),
        Contender("COPY into a temporary table, read, emptied", lines, _staged, rows),
    ]


def _asked(statement: str) -> Callable[[Connection, Any], Counter[str]]:
    def do(conn: Connection, work: Any) -> Counter[str]:
        conn.execute(statement.encode(), [work] if isinstance(work, str) else work)
        return Counter()

    return do


def _staged(conn: Connection, lines: str) -> Counter[str]:
    with conn.transaction():
        conn.execute(
            f"create temporary table if not exists staged ({_AS_TEXT}) on commit delete rows".encode()
        )
        with conn.cursor() as cur:
            with cur.copy("copy staged from stdin") as copy:
                copy.write(lines)
            cur.execute("select count(*), max(monime_transaction_id) from staged")
    return Counter()


# -- committing ---------------------------------------------------------------------------------------------


def commit(db: Database, size: int, rows: int, _filled: int) -> list[Contender[Any]]:
    """The delays."""
    sellers = open_companies(db.dsn, 10)
    return [
        creating(
            f"commit_delay {delay}",
            lambda: texts(new_batches(sellers, rows, size)),
            rows,
            dsn=make_conninfo(db.dsn, options=f"-c commit_delay={delay}"),
        )
        for delay in (0, 50, 200, 1000)
    ]


def main(arguments: list[str]) -> None:
    """Runs one of the contests and prints rates and ratios."""
    contests = {"write": write, "read": read, "commit": commit}
    parser = argparse.ArgumentParser(prog="python -m tests.bench levers")
    parser.add_argument("--what", choices=list(contests), default="write")
    parser.add_argument("--server", default="pg15", choices=["pg15", "pg18"])
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--rows", type=int, default=5_000, help="of each contender in each round")
    parser.add_argument("--filled", type=int, default=300_000, help="tickets in each table before (write)")
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args(arguments)
    with bench_database(options.server) as db:
        contenders = contests[options.what](db, options.batch, options.rows, options.filled)
        report = Report(f"levers: {options.what}", {})
        compete(
            report,
            db.dsn,
            contenders,
            connections=options.connections,
            rounds=options.rounds,
            tell=lambda _: None,
        )
        db.close()
    print(f"{options.server}, {options.what}, batches of {options.batch}, {options.connections} connections")
    for line in report.lines:
        ratio = f"{line.ratio:.2f} ({min(line.ratios):.2f} to {max(line.ratios):.2f})" if line.ratio else ""
        wal = report.facts[f"bytes of WAL for each payment, {line.name}"]
        print(f"  {line.name:<44} {line.rate:>9,.0f}/s  {wal:>6} bytes of WAL  {ratio}")
