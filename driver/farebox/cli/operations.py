"""`farebox unapplied|records|verify`: looking after the money that did not become a ticket, and checking."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import click

from farebox import Farebox
from farebox.cli.catalog import PAGE, until_done
from farebox.cli.output import Column, Exit
from farebox.cli.session import Session, with_session
from farebox.models import UnappliedPayment

_UNAPPLIED_COLUMNS = (
    Column("monime_transaction_id", "id", "transaction"),
    Column("reason", "id"),
    Column("attempts", "count"),
    Column("company_id", heading="company"),
)
_RESOLVED_COLUMNS = (*_UNAPPLIED_COLUMNS, Column("ticket_id", "id", "ticket"))


@click.group()
def unapplied() -> None:
    """Payments that could not become tickets: list them, apply them."""


@unapplied.command("list")
@click.option("--reason", help="Only payments refused for this reason.")
@click.option("--resolved", is_flag=True, help="Also those that have become tickets since.")
@click.option(
    "--with-request", is_flag=True, help="With --json: also the requests, which hold phones and OTPs."
)
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="How many to list.")
@click.option("--all", "everything", is_flag=True, help="List all of them.")
@with_session
def list_unapplied(
    session: Session, reason: str | None, resolved: bool, with_request: bool, limit: int, everything: bool
) -> None:
    """List unapplied payments, longest not seen first.

    \b
    Examples:
      farebox unapplied list
      farebox unapplied list --reason route_inactive --all --json
    """
    hidden = set[str]() if with_request else {"request", "earlier_requests"}
    with session.connect() as client:
        payments = _unapplied(client, reason, resolved, None if everything else limit)
        columns = _RESOLVED_COLUMNS if resolved else _UNAPPLIED_COLUMNS
        session.out.rows((payment.model_dump(exclude=hidden) for payment in payments), columns)


@unapplied.command("apply")
@click.option("--reason", help="Only payments refused for this reason.")
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=1000,
    show_default=True,
    help="How many to try, at most.",
)
@with_session
def apply_unapplied(session: Session, reason: str | None, limit: int) -> None:
    """Try unapplied payments again, longest not seen first; ends with 1 if any is still without a ticket.

    \b
    Examples:
      farebox unapplied apply
      farebox unapplied apply --reason route_inactive
    """
    with session.connect() as client, session.out.working("applying"):
        outcomes = client.apply_unapplied_payments(limit, reason)
    columns = (
        Column("monime_transaction_id", "id", "transaction"),
        Column("outcome"),
        Column("reason"),
        Column("ticket_id", "id", "ticket"),
    )
    session.out.rows((outcome.model_dump() for outcome in outcomes), columns)
    applied = sum(outcome.ok for outcome in outcomes)
    session.out.say(f"{applied:,} of {len(outcomes):,} have their ticket now")
    if applied < len(outcomes):
        raise click.exceptions.Exit(Exit.FOUND)


@click.group()
def records() -> None:
    """Transaction records: the money side of tickets."""


@records.command("repair")
@with_session
def repair_records(session: Session) -> None:
    """Write the transaction records that are missing, each exactly once.

    \b
    Examples:
      farebox records repair
    """
    with session.connect() as client:
        recorded = until_done(session.out, "writing records", client.record_missing_transactions)
    session.out.document({"recorded": recorded}, f"{recorded:,} missing transaction records written")


@click.command(short_help="Check every invariant of the whole database.")
@with_session
def verify(session: Session) -> None:
    """Check every invariant of the whole database; ends with 1 if one is broken.

    \b
    Examples:
      farebox verify
      farebox verify --json || echo broken
    """
    with session.connect() as client, session.out.working("checking every invariant"):
        violations = client.verify()
    if violations:
        columns = (Column("invariant"), Column("subject"), Column("detail"))
        session.out.rows((violation.model_dump() for violation in violations), columns)
        raise click.exceptions.Exit(Exit.FOUND)
    session.out.say("all invariants hold", style="green")


def _unapplied(
    client: Farebox, reason: str | None, resolved: bool, limit: int | None
) -> Iterator[UnappliedPayment]:
    seen_at: datetime | None = None
    transaction: str | None = None
    listed = 0
    while limit is None or listed < limit:
        wanted = PAGE if limit is None else min(PAGE, limit - listed)
        page = client.list_unapplied_payments(wanted, reason, seen_at, transaction, include_resolved=resolved)
        yield from page
        listed += len(page)
        if len(page) < wanted:
            return
        seen_at, transaction = page[-1].last_seen_at, page[-1].monime_transaction_id
