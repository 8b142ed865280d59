"""What counting answers costs: a call with duplicates or conflicts only, and how much of it is counting them.

Both run in loops inside of the server, by turns, in one session with the settings of `create_tickets`; the
fastest of many loops is what a machine that others use disturbs least. Creates count nothing.

    python -m tests.bench counting_cost --server pg15
"""

import argparse
import json
from typing import Final

from farebox.bench.payments import new_batches, open_companies
from tests.bench.support import bench_database

# An empty loop is taken off. Microseconds of one turn.
_LOOP: Final = """
create function public.loop(p_turns int, p_batch json, p_duplicates int, p_conflicts int)
returns double precision
language plpgsql set enable_seqscan = off set plan_cache_mode = force_generic_plan set jit = off
as $$
declare
  v_times timestamptz[] := array[clock_timestamp()];
begin
  for v_turn in 1 .. p_turns loop
    perform 1;
  end loop;
  v_times := v_times || clock_timestamp();
  for v_turn in 1 .. p_turns loop
    if p_batch is not null then
      perform from farebox.create_tickets(p_batch);
    else
      perform farebox._count_outcomes(p_duplicates, p_conflicts, 0);
    end if;
  end loop;
  v_times := v_times || clock_timestamp();
  return 1e6 / p_turns * extract(epoch from (v_times[3] - v_times[2]) - (v_times[2] - v_times[1]));
end
$$
"""


def main(argv: list[str]) -> None:
    """Runs the comparison and prints it."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench counting_cost")
    parser.add_argument("--server", default="pg15", choices=["pg15", "pg18"])
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 100, 1000])
    parser.add_argument("--rounds", type=int, default=60)
    args = parser.parse_args(argv)
    print(f"{args.server}, the fastest of {args.rounds} rounds, microseconds")
    with bench_database(args.server) as db:
        sellers = open_companies(db.dsn, 10)
        with db.connect(autocommit=True) as conn:
            conn.execute(_LOOP)
            conn.execute("vacuum farebox.tally")  # as autovacuum does, once
            for size in args.batches:
                [sold] = new_batches(sellers, size, size, coded=0.5)
                conn.execute("select from farebox.create_tickets(%s)", (json.dumps(sold),))
                changed = [payment | {"amount": 1} for payment in sold]
                for kind, batch in (("duplicates", sold), ("conflicts", changed)):
                    counts = (size, 0) if kind == "duplicates" else (0, size)
                    turns = max(4000 // size, 4)
                    call, count = float("inf"), float("inf")
                    for _ in range(args.rounds):
                        loop = "select public.loop(%s, %s::json, %s, %s)"
                        for text in (json.dumps(batch), None):
                            [(taken,)] = conn.execute(loop, (turns, text, *counts)).fetchall()
                            call, count = (min(call, taken), count) if text else (call, min(count, taken))
                    print(
                        f"  {size:5} {kind:10} {call:9.1f} a call, {count:6.1f} of it counting:"
                        f" {1 - count / call:.3f} of the rate without"
                    )
        db.close()
