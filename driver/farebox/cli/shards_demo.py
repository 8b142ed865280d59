"""`farebox shards demo`: a morning over three shards, one of which is killed and comes back."""

from __future__ import annotations

import secrets
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import click
import psycopg

from farebox import Farebox
from farebox.cli.importer import Tally
from farebox.cli.output import Column, Exit, Output
from farebox.cli.payment_file import PaymentFile
from farebox.cli.session import with_output
from farebox.cli.tickets import creator, outcome_rows, run_import
from farebox.demo.load import issue_codes, load_catalogue, write_rush
from farebox.demo.rush import Rush
from farebox.demo.sharded import ShardedDemo, sharded_demo

_BATCH_SIZE = 200
_DOWN_SECONDS = 2.0


@click.command()
@click.option(
    "--payments", type=click.IntRange(100), default=10_000, show_default=True, help="How many payments."
)
@click.option("--seed", type=click.IntRange(0), help="Repeat an earlier rush (default: a new one).")
@with_output
def demo(out: Output, payments: int, seed: int | None) -> None:
    """Show three shards at work: one is killed in the middle of a rush, comes back, and nothing is lost.

    Starts a router and three shards, servers of this machine's PostgreSQL 15 with PL/Proxy, and removes them
    at the end. Ends with 1 if a payment has not its one ticket, or verify finds something.

    \b
    Examples:
      farebox shards demo
    """
    rush = Rush(payments, secrets.randbelow(1_000_000) if seed is None else seed)
    out.say("1. A router and three shards", style="bold")
    with sharded_demo() as demonstration, tempfile.TemporaryDirectory() as folder:
        # Patience enough to wait for a shard that is started again.
        with Farebox(demonstration.dsn, attempts=40, timeout=60.0) as client:
            load_catalogue(client)
            issue_codes(client, rush)
            path = Path(folder) / "rush.jsonl"
            write_rush(rush, path)
            out.say(
                f"2. A morning rush of {payments:,} payments; shard two is killed in the middle", style="bold"
            )
            first = _import_while(out, client, path, demonstration)
            out.rows_for_people(
                outcome_rows(first), [Column("outcome"), Column("reason"), Column("lines", "count")]
            )
            out.say("3. The same file again: every payment keeps its one ticket", style="bold")
            again = _import(out, client, path)
            out.say(f"   {again['created']:,} created, {again['duplicate']:,} duplicate")
            out.say("4. farebox verify, over all shards and the registry", style="bold")
            violations = client.verify()
        tickets = _tickets(demonstration.dsn)
    is_good = not violations and not again["created"] and not first.counts["rejected", "shard_unavailable"]
    for violation in violations:
        out.warn(f"{violation.invariant}: {violation.subject}: {violation.detail}")
    out.document(
        {"tickets": tickets, "violations": len(violations), "ok": is_good},
        f"   {tickets:,} tickets; {'all invariants hold' if is_good else 'something is wrong'}",
    )
    if not is_good:
        raise click.exceptions.Exit(Exit.FOUND)


def _import(out: Output, client: Farebox, path: Path) -> Tally:
    with PaymentFile(str(path)) as source:
        return run_import(out, creator(client), source, _BATCH_SIZE, None)


def _import_while(out: Output, client: Farebox, path: Path, demonstration: ShardedDemo) -> Tally:
    """Imports; meanwhile shard two is killed once it has sold something, and started again."""
    told: list[str] = []

    def kill() -> None:
        server = demonstration.servers["two"]
        while not _tickets(demonstration.dsn):
            time.sleep(0.05)
        server.kill()
        told.append(f"   shard two was killed, and started again after {_DOWN_SECONDS:.0f} s")
        time.sleep(_DOWN_SECONDS)
        server.start(seconds=60)

    killer = _start(kill)
    tally = _import(out, client, path)
    killer.join()
    out.say("\n".join(told))
    return tally


def _start(function: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def _tickets(dsn: str) -> int:
    """All tickets, by the summaries of all companies."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        row = conn.execute(
            "select coalesce(sum(s.tickets), 0)::bigint"
            " from farebox.list_companies(1000) as c cross join lateral farebox.company_summary(c.id) as s"
        ).fetchone()
    assert row is not None
    return int(row[0])
