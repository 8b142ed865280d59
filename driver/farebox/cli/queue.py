"""`farebox enqueue` and `farebox queue …`: payments that become tickets soon, and looking after them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any, Literal, TypeVar
from uuid import UUID

import click

from farebox import Farebox, TicketOutcome
from farebox.cli.catalog import PAGE
from farebox.cli.output import Column, Exit
from farebox.cli.session import Session, with_session
from farebox.cli.tickets import payments_on_stdin
from farebox.errors import PermissionDeniedError
from farebox.queue_models import DeadRequest, QueuedRequest

R = TypeVar("R", QueuedRequest, DeadRequest)

_QUEUED_COLUMNS = (
    Column("queue_id", "id", "queue id"),
    Column("state"),
    Column("attempts", "count"),
    Column("reason"),
    Column("enqueued_at", "time", "enqueued"),
    Column("monime_transaction_id", "id", "transaction"),
    Column("company_id", heading="company"),
)
_DEAD_COLUMNS = (
    Column("key", "id"),
    Column("reason"),
    Column("detail"),
    Column("attempts", "count"),
    Column("last_seen_at", "time", "last seen"),
    Column("monime_transaction_id", "id", "transaction"),
    Column("company_id", heading="company"),
)

_company = click.option("--company", "company_id", type=click.UUID, help="Only this company's.")
_payment = click.option("--payment", "transaction_id", metavar="ID", help="Only this payment's.")
_limit = click.option(
    "--limit", type=click.IntRange(1), default=100, show_default=True, help="How many to list."
)
_all = click.option("--all", "everything", is_flag=True, help="List all of them.")
_with_request = click.option(
    "--with-request", is_flag=True, help="With --json: also the requests, which hold phones and OTPs."
)
_keys = click.argument("keys", nargs=-1, required=True, metavar="KEY...")
_yes = click.option("--yes", is_flag=True, help="Do not ask.")


@click.command(short_help="Store payments from JSON on standard input, to become tickets soon.")
@click.option(
    "--wait", is_flag=True, help="Wait until workers have settled them, and tell what became of them."
)
@click.option(
    "--timeout", type=click.FloatRange(0), default=30.0, show_default=True, help="Seconds to --wait."
)
@with_session
def enqueue(session: Session, wait: bool, timeout: float) -> None:
    """Store payments from JSON on standard input, to become tickets soon.

    The input is as with `farebox create`. Prints the queue id of each; once it is printed, the payment is not
    lost any more. Safe to repeat: a payment stored twice buys one ticket.

    \b
    Examples:
      farebox enqueue < payments.json
      farebox enqueue --wait --json < payments.json
    """
    payments = payments_on_stdin("enqueue")
    with session.connect() as client:
        with session.out.working("storing"):
            stored = client.enqueue_many(payments, strict=False, chunk_size=len(payments))
        if not wait:
            rows = ({"ordinal": i, "queue_id": each.queue_id} for i, each in enumerate(stored, start=1))
            session.out.rows(rows, (Column("ordinal", "count", "#"), Column("queue_id", "id", "queue id")))
            return
        outcomes: list[TicketOutcome] = []
        with session.out.working("waiting for the workers") as tell:
            for each in stored:
                outcomes.append(each.result(timeout))
                tell(len(outcomes))
    columns = (
        Column("queue_id", "id", "queue id"),
        Column("monime_transaction_id", "id", "transaction"),
        Column("outcome"),
        Column("reason"),
        Column("differing"),
        Column("ticket_id", "id", "ticket"),
    )
    session.out.rows(
        (
            {"queue_id": each.queue_id} | outcome.model_dump(exclude={"ordinal"})
            for each, outcome in zip(stored, outcomes, strict=True)
        ),
        columns,
    )
    if not all(outcome.ok for outcome in outcomes):
        raise click.exceptions.Exit(Exit.FOUND)


@click.group()
def queue() -> None:
    """The queue: what waits, what is dead; retry, drop, pause."""


@queue.command()
@with_session
def stats(session: Session) -> None:
    """Tell how the queue stands.

    \b
    Examples:
      farebox queue stats
      watch farebox queue stats
    """
    with session.connect() as client:
        metrics = client.queue_metrics()
        paused = _paused(client)
    session.out.document(
        metrics.model_dump(exclude={"oldest_age"})
        | {"oldest_age": None if metrics.oldest_age is None else metrics.oldest_age.total_seconds()},
        f"{metrics.size:,} waiting: {metrics.ready:,} ready, {metrics.delayed:,} in backoff, "
        f"{metrics.paused:,} paused; oldest {_age(metrics.oldest_age)}; {metrics.dead:,} dead",
    )
    if not session.out.as_json:
        attempts = ", ".join(f"{count:,} after {n}" for n, count in sorted(metrics.by_attempts.items()) if n)
        if attempts:
            session.out.say(f"failed attempts: {attempts}")
        session.out.say(
            f"{metrics.dead_tuples:,} dead rows in the table; the oldest snapshot is "
            f"{metrics.oldest_xmin_age or 0:,} transactions old"
        )
        for line in paused:
            session.out.say(line)


@queue.command("list")
@_company
@_payment
@click.option("--state", type=click.Choice(["ready", "delayed", "paused"]), help="Only those in this state.")
@_with_request
@_limit
@_all
@with_session
def list_waiting(
    session: Session,
    company_id: UUID | None,
    transaction_id: str | None,
    state: Literal["ready", "delayed", "paused"] | None,
    with_request: bool,
    limit: int,
    everything: bool,
) -> None:
    """List requests that wait, oldest first.

    \b
    Examples:
      farebox queue list --state delayed
      farebox queue list --company 7a355cca-a7cd-5ca6-beb4-a627b35fcc8d --all --json
    """

    def page(client: Farebox, wanted: int, last: QueuedRequest | None) -> list[QueuedRequest]:
        after = None if last is None else last.queue_id
        return client.list_queued_requests(wanted, company_id, transaction_id, state, after)

    with session.connect() as client:
        requests = _pages(client, page, None if everything else limit)
        session.out.rows((_shown(request, with_request) for request in requests), _QUEUED_COLUMNS)


@queue.command()
@_company
@_payment
@click.option("--reason", help="Only those with this reason.")
@_with_request
@_limit
@_all
@with_session
def dead(
    session: Session,
    company_id: UUID | None,
    transaction_id: str | None,
    reason: str | None,
    with_request: bool,
    limit: int,
    everything: bool,
) -> None:
    """List requests that were given up or came to no ticket, longest not seen first.

    Their keys are for `retry` and `drop`. Payments that a rule rejected are in `farebox unapplied list`.

    \b
    Examples:
      farebox queue dead
      farebox queue dead --reason conflict --json --with-request
    """

    def page(client: Farebox, wanted: int, last: DeadRequest | None) -> list[DeadRequest]:
        seen_at: datetime | None = None if last is None else last.last_seen_at
        key = None if last is None else last.key
        return client.list_dead_requests(wanted, company_id, transaction_id, reason, seen_at, key)

    with session.connect() as client:
        requests = _pages(client, page, None if everything else limit)
        session.out.rows((_shown(request, with_request) for request in requests), _DEAD_COLUMNS)


@queue.command()
@_keys
@with_session
def retry(session: Session, keys: tuple[str, ...]) -> None:
    """Have requests tried again now: those in backoff, by queue id, and dead ones, by key.

    Ends with 1 if one of them is not there.

    \b
    Examples:
      farebox queue retry queue:17 payment:pay-36631b3e6147db98
    """
    with session.connect() as client:
        retried = client.retry_queued_requests(_as_keys(keys))
    columns = (Column("key", "id"), Column("queue_id", "id", "queue id"))
    session.out.rows((each.model_dump() for each in retried), columns)
    if any(each.queue_id is None for each in retried):
        raise click.exceptions.Exit(Exit.FOUND)


@queue.command()
@_keys
@_yes
@with_session
def drop(session: Session, keys: tuple[str, ...], yes: bool) -> None:
    """Remove requests for good, by queue id or key; prints them (with --json: whole, to be kept).

    Each is money that arrived. Ends with 1 if one of them is not there.

    \b
    Examples:
      farebox queue drop queue:17
      farebox queue drop --yes --json queue:17 >> dropped.jsonl
    """
    if not yes:
        click.confirm(f"Remove {len(keys):,} requests for good?", abort=True, err=True)
    with session.connect() as client:
        dropped = client.drop_queued_requests(_as_keys(keys))
    columns = (
        Column("key", "id"),
        Column("reason"),
        Column("monime_transaction_id", "id", "transaction"),
        Column("company_id", heading="company"),
    )
    session.out.rows((each.model_dump() for each in dropped), columns)
    if len(dropped) < len(set(_as_keys(keys))):
        raise click.exceptions.Exit(Exit.FOUND)


@queue.command()
@click.argument("company_id", type=click.UUID)
@with_session
def pause(session: Session, company_id: UUID) -> None:
    """Let a company's requests wait, those to come too.

    \b
    Examples:
      farebox queue pause 7a355cca-a7cd-5ca6-beb4-a627b35fcc8d
    """
    with session.connect() as client:
        waiting = client.pause_company_queue(company_id)
    session.out.document({"waiting": waiting}, f"paused; {waiting:,} requests wait")


@queue.command()
@click.argument("company_id", type=click.UUID)
@with_session
def resume(session: Session, company_id: UUID) -> None:
    """Put a paused company's requests back in line.

    \b
    Examples:
      farebox queue resume 7a355cca-a7cd-5ca6-beb4-a627b35fcc8d
    """
    with session.connect() as client:
        resumed = client.resume_company_queue(company_id)
    session.out.document({"resumed": resumed}, f"resumed; {resumed:,} requests are back in line")


def _as_keys(words: tuple[str, ...]) -> list[str]:
    return [f"queue:{word}" if word.isascii() and word.isdecimal() else word for word in words]


def _shown(request: QueuedRequest | DeadRequest, with_request: bool) -> dict[str, Any]:
    return request.model_dump(exclude=set[str]() if with_request else {"request"})


def _paused(client: Farebox) -> list[str]:
    try:
        paused = client.list_paused_companies()
    except PermissionDeniedError:
        return []  # Workers may see the figures only.
    return [
        f"paused since {each.paused_at:%Y-%m-%d %H:%M}: company {each.company_id}, {each.waiting:,} wait"
        for each in paused
    ]


def _age(age: timedelta | None) -> str:
    return "none" if age is None else f"{age.total_seconds():,.1f} s old"


def _pages(
    client: Farebox, page: Callable[[Farebox, int, R | None], list[R]], limit: int | None
) -> Iterator[R]:
    last: R | None = None
    listed = 0
    while limit is None or listed < limit:
        wanted = PAGE if limit is None else min(PAGE, limit - listed)
        rows = page(client, wanted, last)
        yield from rows
        listed += len(rows)
        if len(rows) < wanted:
            return
        last = rows[-1]
