"""`farebox company|route|code …`: the catalogue. The rules are the database's; this asks and shows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar
from uuid import UUID

import click
from pydantic import BaseModel

from farebox.cli.json_text import split_elements
from farebox.cli.output import Column, Exit, Failure, Output
from farebox.cli.session import Session, with_session
from farebox.models import CatalogOutcome

Element = Mapping[str, Any]
_Item = TypeVar("_Item", bound=BaseModel)

PAGE = 1000
"""Rows fetched, and elements sent, at once."""

_OUTCOME_COLUMNS = (Column("ordinal", "count", "#"), Column("outcome"), Column("reason"), Column("id", "id"))

_file = click.option(
    "--file",
    "source",
    type=click.File("rb"),
    help="Take many from JSON instead: an array, or an object a line, with the same names; - is stdin.",
)
_limit = click.option(
    "--limit", type=click.IntRange(1), default=100, show_default=True, help="How many to list."
)
_all = click.option("--all", "everything", is_flag=True, help="List all of them.")
_after = click.option(
    "--after", type=click.UUID, metavar="ID", help="Go on after this one (ids are in order of time)."
)
_company = click.argument("company_id", type=click.UUID)


@click.group()
def company() -> None:
    """Bus companies: add, change and list them."""


@company.command("add")
@click.option("--id", "id", help="A new company's own id, or the id of the one to change.")
@click.option("--name")
@click.option("--monime-account-id")
@click.option("--commission-rate", help="The platform's share, 0 to 1 (a new company's default: 0.05).")
@click.option("--status", type=click.Choice(["active", "suspended"]))
@_file
@with_session
def add_company(session: Session, /, source: Any, **fields: str | None) -> None:
    """Add a company, or change one (--id): what is left out stays as it is.

    \b
    Examples:
      farebox company add --name "Cotton Tree Coaches"
      farebox company add --id 7a355cca-a7cd-5ca6-beb4-a627b35fcc8d --status suspended
      farebox company add --file companies.json
    """
    elements = _elements(source, fields)
    with session.connect() as client:
        _hand_over(session.out, elements, lambda batch: client.upsert_companies(batch, strict=False))


@company.command("list")
@_limit
@_all
@_after
@with_session
def list_companies(session: Session, limit: int, everything: bool, after: UUID | None) -> None:
    """List companies, oldest first.

    \b
    Examples:
      farebox company list
      farebox company list --all --json
    """
    columns = (
        Column("id", "id"),
        Column("name"),
        Column("status"),
        Column("commission_rate", heading="commission"),
        Column("monime_account_id", heading="account"),
    )
    with session.connect() as client:
        _list(session.out, client.list_companies, columns, None if everything else limit, after)


@click.group()
def route() -> None:
    """Routes of a company: add, change and list them."""


@route.command("add")
@click.option("--id", "id", help="A new route's own id, or the id of the one to change.")
@click.option("--company-id", help="The company it belongs to.")
@click.option("--name")
@click.option("--origin")
@click.option("--destination")
@click.option("--fare", help="In minor units: SLE 1 = 100.")
@click.option("--status", type=click.Choice(["active", "inactive"]))
@_file
@with_session
def add_route(session: Session, /, source: Any, **fields: str | None) -> None:
    """Add a route, or change one (--id): what is left out stays as it is.

    \b
    Examples:
      farebox route add --company-id 7a355cca-a7cd-5ca6-beb4-a627b35fcc8d --name "Freetown - Bo" \
              --origin Freetown --destination Bo --fare 860
      farebox route add --id 0fd073eb-d4a1-571a-8d48-ed2ec6327da4 \
        --company-id 7a355cca-a7cd-5ca6-beb4-a627b35fcc8d --status inactive
    """
    elements = _elements(source, fields)
    with session.connect() as client:
        _hand_over(session.out, elements, lambda batch: client.upsert_routes(batch, strict=False))


@route.command("list")
@_company
@_limit
@_all
@_after
@with_session
def list_routes(session: Session, company_id: UUID, limit: int, everything: bool, after: UUID | None) -> None:
    """List the routes of a company, oldest first.

    \b
    Examples:
      farebox route list 7a355cca-a7cd-5ca6-beb4-a627b35fcc8d
    """
    columns = (
        Column("id", "id"),
        Column("name"),
        Column("origin"),
        Column("destination"),
        Column("fare", "money", "fare SLE"),
        Column("status"),
    )
    with session.connect() as client:
        _list(
            session.out,
            lambda size, start: client.list_routes(company_id, size, start),
            columns,
            None if everything else limit,
            after,
        )


@click.group()
def code() -> None:
    """Payment codes: issue, change, cancel, expire and list them."""


@code.command("add")
@click.option("--id", "id", help="A new code's own id.")
@click.option("--company-id", help="The company it belongs to.")
@click.option("--route-id", help="The only route it is good for; without it, any route of the company.")
@click.option("--code", help="What passengers dial.")
@click.option("--total-tickets", help="How many tickets it is good for.")
@click.option("--expires-at", help="Its end, as 2026-03-16T18:00:00Z.")
@_file
@with_session
def add_code(session: Session, /, source: Any, **fields: str | None) -> None:
    """Issue a payment code, or change the limit or the end of one (same company and code).

    \b
    Examples:
      farebox code add --company-id 7a355cca-a7cd-5ca6-beb4-a627b35fcc8d --code '*715*3#' \
              --total-tickets 500 --expires-at 2026-12-31T18:00:00Z
    """
    elements = _elements(source, fields)
    with session.connect() as client:
        _hand_over(session.out, elements, lambda batch: client.issue_payment_codes(batch, strict=False))


@code.command("cancel")
@_company
@click.argument("codes", nargs=-1, required=True, metavar="CODE...")
@with_session
def cancel_codes(session: Session, company_id: UUID, codes: tuple[str, ...]) -> None:
    """Cancel payment codes: no new ticket on them, existing tickets stay.

    \b
    Examples:
      farebox code cancel 7a355cca-a7cd-5ca6-beb4-a627b35fcc8d '*715*3#' '*715*4#'
    """
    elements = [{"company_id": str(company_id), "code": each} for each in codes]
    with session.connect() as client:
        _hand_over(session.out, elements, lambda batch: client.cancel_payment_codes(batch, strict=False))


@code.command("expire")
@with_session
def expire_codes(session: Session) -> None:
    """Mark the payment codes whose time is over as expired (creating tickets does not depend on it).

    \b
    Examples:
      farebox code expire
    """
    with session.connect() as client:
        expired = until_done(session.out, "expiring codes", client.expire_payment_codes)
    session.out.document({"expired": expired}, f"{expired:,} payment codes expired")


@code.command("list")
@_company
@_limit
@_all
@_after
@with_session
def list_codes(session: Session, company_id: UUID, limit: int, everything: bool, after: UUID | None) -> None:
    """List the payment codes of a company, oldest first.

    \b
    Examples:
      farebox code list 7a355cca-a7cd-5ca6-beb4-a627b35fcc8d --all
    """
    columns = (
        Column("id", "id"),
        Column("code"),
        Column("status"),
        Column("used_tickets", "count", "used"),
        Column("total_tickets", "count", "of"),
        Column("expires_at", "time"),
        Column("route_id", "id", "only on route"),
    )
    with session.connect() as client:
        _list(
            session.out,
            lambda size, start: client.list_payment_codes(company_id, size, start),
            columns,
            None if everything else limit,
            after,
        )


def until_done(out: Output, what: str, step: Callable[[int], int]) -> int:
    """Call a function that does up to a limit of things until it finds fewer; how many it did in all."""
    total = 0
    with out.working(what) as tell:
        while True:
            done = step(PAGE)
            total += done
            if done < PAGE:
                return total
            tell(total)


def hand_over_all(
    elements: Sequence[Element], call: Callable[[Sequence[Element]], Iterable[CatalogOutcome]]
) -> Iterator[CatalogOutcome]:
    """Send any number of elements in batches; outcomes are numbered over all of them."""
    for start in range(0, len(elements), PAGE):
        for outcome in call(elements[start : start + PAGE]):
            yield outcome.model_copy(update={"ordinal": outcome.ordinal + start})


def _hand_over(
    out: Output, elements: Sequence[Element], call: Callable[[Sequence[Element]], Iterable[CatalogOutcome]]
) -> None:
    outcomes: list[CatalogOutcome] = []
    with out.working("handing over") as tell:
        for outcome in hand_over_all(elements, call):
            outcomes.append(outcome)
            if len(outcomes) % PAGE == 0:
                tell(len(outcomes))
    out.rows((outcome.model_dump() for outcome in outcomes), _OUTCOME_COLUMNS)
    if not all(outcome.ok for outcome in outcomes):
        raise click.exceptions.Exit(Exit.FOUND)


def _elements(source: Any, fields: Mapping[str, str | None]) -> list[Element]:
    given = {name: value for name, value in fields.items() if value is not None}
    if (source is None) == (not given):
        raise click.UsageError("give either the fields as options or --file with JSON")
    if source is None:
        return [given]
    try:
        elements = [json.loads(element) for element in split_elements(source.read().decode("utf-8-sig"))]
    except ValueError as error:
        raise Failure(f"{source.name} is not JSON: {error}", Exit.USAGE) from None
    if not all(isinstance(element, dict) for element in elements):
        raise Failure(f"{source.name} must hold JSON objects", Exit.USAGE)
    return elements


def _list(
    out: Output,
    fetch: Callable[[int, UUID | None], Sequence[_Item]],
    columns: Sequence[Column],
    limit: int | None,
    after: UUID | None,
) -> None:
    last: UUID | None = after
    listed = 0
    more = False

    def items() -> Iterator[dict[str, object]]:
        nonlocal last, listed, more
        while True:
            # One more than wanted tells whether there is more.
            wanted = PAGE if limit is None else min(PAGE, limit - listed + 1)
            page = fetch(wanted, last)
            for item in page:
                if listed == limit:
                    more = True
                    return
                row = item.model_dump()
                last, listed = row["id"], listed + 1
                yield row
            if len(page) < wanted:
                return

    out.rows(items(), columns)
    if more:
        out.hint(f"there are more: --after {last} goes on, --all lists everything")
