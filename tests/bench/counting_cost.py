"""What counting answers costs: creates, duplicates and conflicts with it, without it, and by another version.

Databases of one server, the same but for the functions, get the same batches by turns over a connection each.
"Without" counts nothing but is called; `--other` loads the functions of these files into a third.

    python -m tests.bench counting_cost --server pg15
    git show v1:db/functions/_answer_replay.sql > /tmp/old.sql; … --other /tmp/old.sql
"""

import argparse
import random
import statistics
import time
from pathlib import Path
from typing import Final

from farebox.bench.payments import Payment, Seller, new_batches, open_companies, texts
from tests.bench.support import bench_database
from tests.support.database import Database

_BLIND: Final = (
    "create or replace function farebox._count_outcomes(p_duplicates int, p_conflicts int, p_rejections int)"
    " returns void language plpgsql as 'begin end'"
)
_KINDS: Final = ("creates", "duplicates", "conflicts")


class Variant:
    """One database, its connection, and what was sold in it first."""

    def __init__(self, db: Database, batch: int, rows: int) -> None:
        self.db = db
        self._sellers: list[Seller] = open_companies(db.dsn, 10)
        self._size = batch
        self._conn = db.connect(autocommit=True)
        sold = self._new(rows)
        self._run(texts(sold))
        self._again = {
            "duplicates": texts(sold),
            "conflicts": texts([[payment | {"amount": 1} for payment in each] for each in sold]),
        }

    def _new(self, rows: int) -> list[list[Payment]]:
        return new_batches(self._sellers, rows, self._size, coded=0.5)

    def _run(self, batches: list[str]) -> float:
        began = time.perf_counter()
        with self._conn.cursor() as cursor:
            for batch in batches:
                cursor.execute("select * from farebox.create_tickets(%s)", (batch,))
                cursor.fetchall()
        return time.perf_counter() - began

    def seconds(self, kind: str, rows: int) -> float:
        """How long so many answers of that kind take."""
        if kind == "creates":
            return self._run(texts(self._new(rows)))
        return self._run(self._again[kind][: rows // self._size])


def main(argv: list[str]) -> None:
    """Runs the comparison and prints it."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench counting_cost")
    parser.add_argument("--server", default="pg15", choices=["pg15", "pg18"])
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--rows", type=int, default=4000, help="answers of each kind in a round")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--other", type=Path, nargs="*", default=[], help="files of functions")
    args = parser.parse_args(argv)

    with bench_database(args.server) as first:
        server = first.server
        databases = {"counting": first}
        for name in ("without", "other")[: 2 if args.other else 1]:
            server.create_database(name)
            databases[name] = Database(server, name)
        databases["without"].execute(_BLIND)
        for file in args.other:
            text = file.read_text().replace("create function", "create or replace function")
            databases["other"].connect(autocommit=True).execute(text.encode(), prepare=False)
        variants = {name: Variant(db, args.batch, args.rows) for name, db in databases.items()}
        taken: dict[tuple[str, str], list[float]] = {(k, v): [] for k in _KINDS for v in variants}
        for _ in range(args.rounds):
            for kind in _KINDS:
                for name in random.sample(list(variants), len(variants)):
                    taken[kind, name].append(variants[name].seconds(kind, args.rows))
        for db in databases.values():
            db.close()

    print(f"{args.server}, one connection, batches of {args.batch}, {args.rounds} rounds of {args.rows} each")
    for kind in _KINDS:
        rate = args.rows / statistics.median(taken[kind, "counting"])
        print(f"  {kind:10} {rate:8,.0f}/s counted")
        for name in list(variants)[1:]:
            pairs = zip(taken[kind, name], taken[kind, "counting"], strict=True)
            ratios = [theirs / ours for theirs, ours in pairs]
            low, middle, high = statistics.quantiles(ratios)
            print(f"  {'':10} x {name:8} {middle:.3f}  (quartiles {low:.3f} to {high:.3f})")
