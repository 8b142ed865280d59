"""Farebox beside what people would take instead: the same payments, the same server, by turns in one run.

    pip install -r tests/bench/peers/requirements.txt    # and, for the queue, Debian's redis-server
    python -m tests.bench peers --server pg15 --what create,queue

Each peer works as its own documentation says is fastest, on durable settings, into tables of its own that
are copies of Farebox's, and is checked afterwards: all tickets, each with its record, and a replay that
adds none.
"""

import argparse
import sys
from collections.abc import Sequence

from farebox.bench.place import Place
from farebox.bench.report import environment
from farebox.cli.bench import show_report
from farebox.cli.output import Output
from tests.bench.peers import creates, queues
from tests.bench.support import bench_database


def main(arguments: Sequence[str]) -> None:
    """Prints rates, medians and ratios over Farebox; ends with 1 when one of them was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench peers")
    parser.add_argument("--server", default="pg15", choices=["pg15", "pg18"])
    parser.add_argument("--what", default="create,queue")
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--connections", type=int, default=2)
    parser.add_argument("--rows", type=int, default=5_000, help="payments of each in a round")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args(arguments)
    kinds = {"create": creates.run, "queue": queues.run}
    is_good = True
    for what in args.what.split(","):
        with bench_database(args.server) as db, Place(db.server.dsn("postgres")) as place:
            measured_on = environment(place.dsn)
            report = kinds[what](place, args.batch, args.connections, args.rows, args.rounds)
            report.environment = measured_on
        show_report(Output(as_json=False), report)
        is_good &= report.ok
    sys.exit(0 if is_good else 1)
