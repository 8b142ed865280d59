"""`farebox demo`: the whole way, from an empty machine to a morning's tickets, checked to the last line."""

from __future__ import annotations

import secrets
import shlex
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from farebox import Farebox, migrate
from farebox._installation import embedded_installation
from farebox.cli.importer import Tally
from farebox.cli.output import Column, Exit, Failure, Output
from farebox.cli.payment_file import PaymentFile
from farebox.cli.session import Session, shown_dsn, with_session
from farebox.cli.tickets import creator, outcome_rows, run_import, tally_document
from farebox.demo.catalogue import COMPANIES
from farebox.demo.load import Expected, issue_codes, load_catalogue, write_rush
from farebox.demo.rush import Rush
from farebox.demo.webhooks import send_webhooks
from farebox.errors import NotMigratedError
from farebox.models import Violation
from farebox.server import EmbeddedServer, default_home

BATCH_SIZE = 500
MOST_WEBHOOKS = 2_000
RESCUED_REASON = "route_inactive"


@dataclass(frozen=True, slots=True)
class _Files:
    """Where the rush and what was not created are."""

    payments: Path
    rejects: Path


@click.command(short_help="Show Farebox at work: a morning rush.")
@click.option(
    "--payments", type=click.IntRange(1), default=20_000, show_default=True, help="How many payments."
)
@click.option("--seed", type=click.IntRange(0), help="Repeat an earlier rush (default: a new one).")
@click.option(
    "--out",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the generated file goes (default: a new temporary folder).",
)
@click.option("--force", is_flag=True, help="Also on a database that holds companies of its own.")
@with_session
def demo(session: Session, payments: int, seed: int | None, folder: Path | None, force: bool) -> None:
    """Show Farebox at work: a morning rush on Sierra Leone's roads.

    Starts the embedded server (unless --dsn or FAREBOX_DSN names a database), migrates it, loads companies
    and routes, writes a file of webhooks as dirty as real ones, imports it twice and checks everything.
    May be run again and again. Ends with 1 if an outcome is not what it must be, or verify finds something.

    \b
    Examples:
      farebox demo
      farebox demo --payments 1000 --seed 7
    """
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    stage = _Stage(session.out)

    stage.begin("Database")
    dsn = session.dsn if session.is_dsn_given else EmbeddedServer().up()
    if not force:
        _refuse_foreign_database(dsn)
    applied = migrate.apply(dsn)
    stage.end(f"{shown_dsn(dsn)}: {len(applied)} migrations applied")

    with Farebox(dsn) as client:
        stage.begin("Catalogue and payment codes")
        rush = Rush(payments, seed)
        load_catalogue(client)
        is_new = issue_codes(client, rush)
        routes = sum(len(company.routes) for company in COMPANIES)
        stage.end(f"{len(COMPANIES)} companies, {routes} routes, {len(rush.codes)} payment codes")

        stage.begin(f"A morning rush (--seed {seed})")
        files = _files(folder, seed)
        expected = write_rush(rush, files.payments)
        stage.end(f"{expected.total():,} webhooks for {payments:,} payments in {files.payments}")

        stage.begin(f"farebox import {files.payments}")
        first = _import(session.out, client, files)
        stage.end(_speed(first))
        surprises = _show_outcomes(session.out, first, expected if is_new else None)

        stage.begin("The same file again: every payment keeps its one ticket")
        again = _import(session.out, client, files)
        stage.end(f"{again['created']:,} created, {again['duplicate']:,} duplicate; {_speed(again)}")

        webhooks = min(payments, MOST_WEBHOOKS)
        stage.begin(f"The queue: {webhooks:,} webhooks are stored and answered, a worker makes the tickets")
        queued = send_webhooks(dsn, client, webhooks, seed)
        stage.end(
            f"all stored after {queued.stored_after * 1e3:,.0f} ms, "
            f"{queued.tickets:,} tickets after {queued.settled_after * 1e3:,.0f} ms"
        )

        stage.begin("A closed route opens: payments for it that were kept become tickets")
        rescued = _rescue(client)
        stage.end(f"farebox unapplied apply --reason {RESCUED_REASON}: {rescued:,} tickets")

        stage.begin("What each company earned (all runs on this database)")
        companies = _summaries(client)
        _show_companies(session.out, companies)

        stage.begin("farebox verify")
        violations = client.verify()
        _show_violations(session.out, violations)

    is_good = not violations and not surprises and not again["created"] and queued.tickets == webhooks
    if session.out.as_json:
        session.out.document(
            {
                "dsn": shown_dsn(dsn),
                "seed": seed,
                "payments": str(files.payments),
                "rejects": str(files.rejects),
                "import": tally_document(first),
                "import_again": tally_document(again),
                "surprises": surprises,
                "queued": asdict(queued),
                "rescued": rescued,
                "companies": companies,
                "violations": [violation.model_dump() for violation in violations],
                "ok": is_good,
            },
            "",
        )
    else:
        _show_way_on(session, dsn, files)
    if not is_good:
        raise click.exceptions.Exit(Exit.FOUND)


class _Stage:
    """Headings for people, numbered, each with how long it took."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._number = 0
        self._started = 0.0

    def begin(self, title: str) -> None:
        """A new step."""
        self._number += 1
        self._started = time.monotonic()
        self._out.say(f"\n{self._number}. {title}", style="bold")

    def end(self, result: str) -> None:
        """Its result."""
        self._out.say(f"   {result}  ({time.monotonic() - self._started:.1f} s)")


def _refuse_foreign_database(dsn: str) -> None:
    """FAREBOX_DSN may name a real database: invented companies and tickets have no place there."""
    own = {company.id for company in COMPANIES}
    try:
        with Farebox(dsn) as client:
            found = {company.id for company in client.list_companies(limit=len(own) + 1)}
    except NotMigratedError:
        return
    if found - own:
        raise Failure(
            f"{shown_dsn(dsn)} holds companies that are not the demo's",
            Exit.USAGE,
            hint="Name an empty database with --dsn, or add --force to put the demo's beside them.",
        )


def _files(folder: Path | None, seed: int) -> _Files:
    if folder is None:
        folder = Path(tempfile.mkdtemp(prefix="farebox-demo-"))
    folder.mkdir(parents=True, exist_ok=True)
    return _Files(folder / f"rush-{seed}.jsonl", folder / f"rush-{seed}.rejects.jsonl")


def _import(out: Output, client: Farebox, files: _Files) -> Tally:
    with PaymentFile(str(files.payments)) as source:
        return run_import(out, creator(client), source, BATCH_SIZE, files.rejects)


def _speed(tally: Tally) -> str:
    return f"{tally.lines:,} lines at {tally.rate:,.0f} a second"


def _show_outcomes(out: Output, tally: Tally, expected: Expected | None) -> list[dict[str, object]]:
    """Show what happened, beside what must happen where that is known; the rows where the two differ."""
    columns = [Column("outcome"), Column("reason"), Column("lines", "count")]
    rows = list(outcome_rows(tally))
    if expected is None:
        out.rows_for_people(rows, columns)
        out.say(
            "   this rush was here before, so its payments have their tickets already: try another --seed"
        )
        return []
    missing = expected.keys() - tally.counts.keys()
    rows += [{"outcome": outcome, "reason": reason, "lines": 0} for outcome, reason in missing]
    for row in rows:
        row["must_be"] = expected[row["outcome"], row["reason"]]
    out.rows_for_people(rows, [*columns, Column("must_be", "count")])
    surprises = [row for row in rows if row["lines"] != row["must_be"]]
    if surprises:
        out.warn(f"{len(surprises)} outcomes are not what the contract demands")
    return surprises


def _rescue(client: Farebox) -> int:
    closed = [
        {"id": route.id, "company_id": company.id, "status": "active"}
        for company in COMPANIES
        for route in company.routes
        if route.status == "inactive"
    ]
    client.upsert_routes(closed)
    return sum(outcome.ok for outcome in client.apply_unapplied_payments(reason=RESCUED_REASON))


def _summaries(client: Farebox) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for company in COMPANIES:
        summary = client.company_summary(company.id)
        if summary is not None:
            rows.append({"company": company.name} | summary.model_dump())
    return rows


def _show_companies(out: Output, companies: list[dict[str, Any]]) -> None:
    columns = (
        Column("company"),
        Column("tickets", "count"),
        Column("gross", "money", "gross SLE"),
        Column("commission", "money", "commission SLE"),
        Column("net_amount", "money", "net SLE"),
    )
    out.rows_for_people(companies, columns)


def _show_violations(out: Output, violations: list[Violation]) -> None:
    if violations:
        columns = (Column("invariant"), Column("subject"), Column("detail"))
        out.rows_for_people([violation.model_dump() for violation in violations], columns)
    else:
        out.say("   all invariants hold", style="green")


def _show_way_on(session: Session, dsn: str, files: _Files) -> None:
    psql = "psql"
    if not shutil.which(psql) and not session.is_dsn_given:
        psql = str(embedded_installation(default_home()).bin / psql)
    company = COMPANIES[0].id
    session.out.say("\nLook further", style="bold")
    session.out.say(
        f"   {shlex.quote(psql)} {shlex.quote(shown_dsn(dsn))}\n"
        f"     select * from farebox.company_summary('{company}');\n"
        "     select reason, count(*) from farebox.unapplied_payments where ticket_id is null group by 1;\n"
        "     select * from farebox.tickets order by id desc limit 10;\n"
        f"   what got no ticket, line by line: {files.rejects}"
    )
    if not session.is_dsn_given:
        program = "farebox" if shutil.which("farebox") else shlex.quote(sys.argv[0])
        session.out.say(
            f"   {program} down stops the embedded server; {program} --help shows what else there is"
        )
