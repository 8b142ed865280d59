"""`farebox create` and `farebox import`: payments become tickets."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from farebox import Farebox
from farebox.cli.importer import Creator, Importer, Rejects, Tally
from farebox.cli.json_text import split_elements
from farebox.cli.output import Column, Exit, Failure, Output
from farebox.cli.payment_file import COLUMNS, Format, PaymentFile, PaymentFileError
from farebox.cli.session import Session, with_session

CREATE_LIMIT = 10_000

_OUTCOME_COLUMNS = (
    Column("ordinal", "count", "#"),
    Column("monime_transaction_id", "id", "transaction"),
    Column("outcome"),
    Column("reason"),
    Column("differing"),
    Column("ticket_id", "id", "ticket"),
    Column("existing_ticket_id", "id", "existing ticket"),
)


@click.command(short_help="Create tickets from JSON on standard input.")
@with_session
def create(session: Session) -> None:
    """Create tickets from JSON on standard input.

    One payment as an object, or up to 10,000 in an array or one a line, with the keys company_id, route_id,
    passenger_phone, monime_transaction_id, monime_otp, amount (minor units) and, if wanted, commission_rate
    and payment_code. One outcome a payment comes back. Safe to repeat: a payment that has its ticket answers
    `duplicate` with that ticket. Ends with 1 if a payment got no ticket.

    \b
    Examples:
      farebox create < payment.json
      jq -c .data webhook.json | farebox create --json
    """
    elements = payments_on_stdin("create")
    with session.connect() as client, session.out.working("creating"):
        outcomes = creator(client)(elements)
    session.out.rows((outcome.model_dump() for outcome in outcomes), _OUTCOME_COLUMNS)
    _mention_unrecorded(session.out, sum(each.ok and not each.transaction_recorded for each in outcomes))
    if not all(outcome.ok for outcome in outcomes):
        raise click.exceptions.Exit(Exit.FOUND)


def payments_on_stdin(command: str) -> list[bytes]:
    """The payments on standard input, each as it is written there. Raises Failure for none or too many."""
    if sys.stdin.isatty():
        raise Failure(
            "nothing on standard input",
            Exit.USAGE,
            hint=f"farebox {command} < payments.json; for big files: farebox import FILE",
        )
    try:
        elements = split_elements(sys.stdin.buffer.read().decode("utf-8-sig"))
    except ValueError as error:
        raise Failure(f"standard input is not JSON: {error}", Exit.USAGE) from None
    if len(elements) > CREATE_LIMIT:
        raise Failure(f"more than {CREATE_LIMIT:,} payments", Exit.USAGE, hint="use farebox import FILE")
    if not elements:
        raise Failure("no payment on standard input", Exit.USAGE)
    return [element.encode() for element in elements]


def _columns(_context: click.Context, _parameter: click.Parameter, values: Sequence[str]) -> dict[str, str]:
    mapping: dict[str, str] = {}
    for value in values:
        name, equals, column = value.partition("=")
        if not equals or not column or name not in COLUMNS:
            raise click.BadParameter(
                f"{value!r} is not NAME=COLUMN with one of the names {', '.join(COLUMNS)}"
            )
        mapping[name] = column
    return mapping


@click.command("import", short_help="Create tickets from a file of payments.")
@click.argument("file")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["csv", "jsonl"]),
    help="Default: by the file's name or its first character.",
)
@click.option(
    "--column",
    "columns",
    multiple=True,
    callback=_columns,
    metavar="NAME=COLUMN",
    help="CSV: the file's name for a column; may be given several times.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(1, 10_000),
    default=500,
    show_default=True,
    help="Payments sent at once; each batch is one transaction.",
)
@click.option(
    "--rejects",
    "rejects_path",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write every line that got no ticket here, with its number and the reason. It holds phones and "
    "OTPs: only you may read it. An existing file is overwritten.",
)
@with_session
def import_payments(
    session: Session,
    file: str,
    kind: Format | None,
    columns: dict[str, str],
    batch_size: int,
    rejects_path: Path | None,
) -> None:
    """Create tickets from a FILE of payments: CSV with a header or JSON lines, gzip too; - is standard input.

    The names are company_id, route_id, passenger_phone, monime_transaction_id, monime_otp, amount (minor
    units) and, if wanted, commission_rate and payment_code; other columns are ignored. A record is one line.
    A line that cannot be read counts as malformed and goes to the rejects; it never stops the run.

    Safe to interrupt and to run again: every payment gets its ticket exactly once, and one that has it
    already counts as duplicate. Memory stays constant however long the file is. Ends with 0 if every line is
    created or duplicate, with 1 otherwise.

    A reject is a line of JSON: line, outcome, reason, differing (the fields of a conflict) and the payment as
    it came, or the raw text of a malformed line. Rejected payments with a usable transaction id are kept in
    the database too (`farebox unapplied list`), where they can be applied once the reason is gone.

    \b
    Examples:
      farebox import payments.csv.gz --rejects rejects.jsonl
      farebox import export.csv --column monime_transaction_id="Payment ID" --column amount=Minor
      zcat *.jsonl.gz | farebox import - --json
    """
    _refuse_same_file(file, rejects_path)
    try:
        with PaymentFile(file, kind=kind, columns=columns) as source, session.connect() as client:
            tally = run_import(session.out, creator(client), source, batch_size, rejects_path)
            summarise(session.out, tally, rejects_path, complete=source.broken is None)
            broken = source.broken
    except PaymentFileError as error:
        raise Failure(str(error), Exit.USAGE) from None
    if broken:
        raise Failure(broken, Exit.FOUND, hint="What stands before that line was imported.")
    if tally.failed:
        raise click.exceptions.Exit(Exit.FOUND)


def creator(client: Farebox) -> Creator:
    """Creates tickets from JSON as it came, leaving every judgement to the database."""
    return lambda elements: (
        client.create_tickets(elements, strict=False, chunk_size=len(elements), ordered=True).outcomes
    )


def run_import(
    out: Output, create: Creator, source: PaymentFile, batch_size: int, rejects_path: Path | None
) -> Tally:
    """Import everything, with progress on a terminal; says how far it came when it is cut short."""
    if source.ignored_columns:
        out.hint(f"columns that are not used: {', '.join(source.ignored_columns)}")
    with ExitStack() as stack:
        rejects = stack.enter_context(Rejects(rejects_path)) if rejects_path else None
        on_progress = stack.enter_context(_progress(out, source))
        importer = Importer(create, batch_size=batch_size, rejects=rejects, on_progress=on_progress)
        try:
            return importer.run(source)
        except BaseException:
            stack.close()
            tally = importer.tally
            out.warn(
                f"stopped after line {tally.last_line:,}: {tally['created']:,} created, "
                f"{tally['duplicate']:,} duplicate; run it again, nothing is created twice"
            )
            raise


def outcome_rows(tally: Tally) -> Iterator[dict[str, Any]]:
    """The tally as rows of outcome, reason and lines: what went well first."""
    order = ("created", "duplicate", "conflict", "rejected", "malformed")
    for (outcome, reason), count in sorted(
        tally.counts.items(), key=lambda item: (order.index(item[0][0]), -item[1], item[0][1] or "")
    ):
        yield {"outcome": outcome, "reason": reason, "lines": count}


def tally_document(tally: Tally) -> dict[str, object]:
    """The tally for programs."""
    return {
        "lines": tally.lines,
        **{name: tally[name] for name in ("created", "duplicate", "conflict", "rejected", "malformed")},
        "unrecorded": tally.unrecorded,
        "reasons": {reason: count for (_, reason), count in sorted(tally.counts.items(), key=str) if reason},
        "seconds": round(tally.seconds, 3),
    }


def summarise(out: Output, tally: Tally, rejects_path: Path | None, *, complete: bool) -> None:
    """Say what became of an import."""
    if out.as_json:
        rejects = str(rejects_path) if rejects_path else None
        out.document(tally_document(tally) | {"rejects": rejects, "complete": complete}, "")
    else:
        out.rows(outcome_rows(tally), (Column("outcome"), Column("reason"), Column("lines", "count")))
        out.say(f"{tally.lines:,} lines in {tally.seconds:.1f} s: {tally.rate:,.0f} a second")
        if tally.failed and rejects_path:
            out.say(f"{tally.failed:,} lines got no ticket; each is in {rejects_path} with its reason")
        elif tally.failed:
            out.say(
                f"{tally.failed:,} lines got no ticket; run again with --rejects FILE to see each of them"
            )
    _mention_unrecorded(out, tally.unrecorded)


def _mention_unrecorded(out: Output, unrecorded: int) -> None:
    if unrecorded:
        out.warn(f"{unrecorded:,} tickets lack their transaction record: run farebox records repair")


@contextmanager
def _progress(out: Output, source: PaymentFile) -> Generator[Callable[[Tally, int], None] | None]:
    if not out.err.is_terminal:
        yield None
        return
    with Progress(
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[lines]:,} lines"),
        TextColumn("{task.fields[rate]:,.0f}/s"),
        TimeRemainingColumn(),
        console=out.err,
        transient=True,
    ) as progress:
        task = progress.add_task("import", total=source.size, lines=0, rate=0.0)

        def update(tally: Tally, position: int) -> None:
            elapsed = progress.tasks[0].elapsed or 0.0
            rate = tally.lines / elapsed if elapsed else 0.0
            progress.update(task, completed=position, lines=tally.lines, rate=rate)

        yield update


def _refuse_same_file(file: str, rejects_path: Path | None) -> None:
    if rejects_path is None or not rejects_path.is_file():
        return
    try:
        source = os.fstat(sys.stdin.fileno()) if file == "-" else Path(file).stat()
    except OSError:
        return  # Not there, or an input that is no file at all.
    if os.path.samestat(source, rejects_path.stat()):
        raise Failure("the rejects file is the input itself", Exit.USAGE)
