"""`farebox bench`: how fast a server sells, measured and checked in databases of the benchmark's own."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypedDict, Unpack

import click

from farebox.cli.output import Column, Exit, Failure, Output
from farebox.cli.session import Session, with_session

if TYPE_CHECKING:
    from farebox.bench.place import Place
    from farebox.bench.report import Report

_P = ParamSpec("_P")
_Tell = Callable[[int], None]

NO_EXTRA: Final = Failure(
    "the parts of `farebox bench` are not installed", Exit.FAILED, hint="pip install 'farebox[bench]'"
)


def _counts(least: int) -> Callable[[click.Context, click.Parameter, str], list[int]]:
    """A callback for whole numbers with commas in between."""

    def read(_context: click.Context, _parameter: click.Parameter, value: str) -> list[int]:
        try:
            counts = sorted({int(number) for number in value.split(",")})
        except ValueError:
            counts = []
        if not counts or counts[0] < least:
            raise click.BadParameter(f"{value} is not whole numbers from {least} on, with commas in between")
        return counts

    return read


def _seconds(_context: click.Context, _parameter: click.Parameter, value: str) -> float:
    """A callback for times as 90, 90s, 10m or 1h."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", value)
    if match is None or not float(match[1]):
        raise click.BadParameter(f"{value} is not a time such as 30s, 10m or 1h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


@click.group(short_help="Measure how fast a server sells.")
def bench() -> None:
    """Measure how fast a server sells, in a database of the benchmark's own that is dropped at the end.

    Works on the server of --dsn, as a login that may create databases (else in the schema farebox of the
    database named, if there is none yet). Afterwards every invariant is checked: a wrong run ends with 1,
    however fast it was. Refuses a server that can lose an acknowledged ticket. Needs farebox[bench].

    \b
    Examples:
      farebox bench create --floor
      farebox bench burst --callers 10000
    """


def _scenario(command: Callable[Concatenate[Place, _Tell, _P], Report]) -> Callable[..., None]:
    """A command that gets a place to measure in and a function that tells the round; its report is shown."""

    @click.option(
        "--html",
        "page_path",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Write a page with plots.",
    )
    @click.option(
        "--even-if-not-durable",
        is_flag=True,
        help="Measure a server that can lose tickets; the report says so.",
    )
    @with_session
    @functools.wraps(command)
    def wrapper(
        session: Session,
        /,
        page_path: Path | None,
        even_if_not_durable: bool,
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> None:
        try:
            from farebox.bench.page import page
            from farebox.bench.place import Place, ended_by_signals, require_durable
            from farebox.bench.report import environment
        except ModuleNotFoundError as error:
            if error.name in ("hdrh", "pygal"):
                raise NO_EXTRA from None
            raise
        if not even_if_not_durable:
            require_durable(session.dsn)
        if page_path is not None:
            page_path.touch()  # Now, not after an hour.
        with ended_by_signals(), Place(session.dsn) as place, session.out.working("round") as tell:
            measured_on = environment(place.dsn)
            report = command(place, tell, *args, **kwargs)
            report.environment = measured_on
        if page_path is not None:
            page_path.write_text(page(report), encoding="utf-8")
        show_report(session.out, report)
        if not report.ok:
            raise click.exceptions.Exit(Exit.FOUND)

    return wrapper


_batch = click.option(
    "--batch", type=click.IntRange(4, 10_000), default=100, show_default=True, help="Payments a call."
)
_rows = click.option(
    "--rows", type=click.IntRange(1), default=5_000, show_default=True, help="Payments of each in a round."
)
_floor = click.option(
    "--floor", is_flag=True, help="COPY into copies of the same tables, by turns with the rest."
)


def _connections(default: int) -> Callable[[Any], Any]:
    return click.option(
        "--connections", type=click.IntRange(1, 1000), default=default, show_default=True, help="At once."
    )


def _rounds(default: int) -> Callable[[Any], Any]:
    return click.option(
        "--rounds", type=click.IntRange(1), default=default, show_default=True, help="Medians of so many."
    )


class _ClosedLoop(TypedDict):
    """What these options give: the fields of `farebox.bench.creating.Load`."""

    batch: int
    connections: int
    rows: int
    rounds: int
    floor: bool


def _closed_loop(connections: int) -> Callable[[Any], Any]:
    """The options of scenarios in which contenders take turns."""

    def add(command: Any) -> Any:
        for option in (_floor, _rounds(20), _rows, _connections(connections), _batch):
            command = option(command)
        return command

    return add


@bench.command(short_help="Batches of new payments.")
@_closed_loop(1)
@click.option(
    "--coded", type=click.FloatRange(0, 1), default=0.0, help="Beside as many: this share with codes."
)
@_scenario
def create(place: Place, tell: _Tell, coded: float, **load: Unpack[_ClosedLoop]) -> Report:
    """Batches of new payments over plain connections.

    \b
    Examples:
      farebox bench create --floor
      farebox bench create --batch 1000 --connections 4 --html report.html
      farebox bench create --coded 0.5
    """
    from farebox.bench import creating

    return creating.create(place, creating.Load(**load), tell, coded=coded)


@bench.command(short_help="Payments that come again.")
@_closed_loop(1)
@click.option(
    "--share",
    type=click.FloatRange(0, 1),
    default=1.0,
    show_default=True,
    help="Also with this share of duplicates.",
)
@_scenario
def duplicates(place: Place, tell: _Tell, share: float, **load: Unpack[_ClosedLoop]) -> Report:
    """Payments that come again: nothing but duplicates, and with --share some among new ones.

    \b
    Examples:
      farebox bench duplicates --share 0.3
    """
    from farebox.bench import creating

    return creating.duplicates(place, creating.Load(**load), tell, share=share)


@bench.command(short_help="Conflicts, and all outcomes together.")
@_closed_loop(1)
@_scenario
def conflict_mix(place: Place, tell: _Tell, **load: Unpack[_ClosedLoop]) -> Report:
    """Nothing but conflicts; and a quarter each of created, duplicate, conflict and rejected.

    \b
    Examples:
      farebox bench conflict-mix --batch 500
    """
    from farebox.bench import creating

    return creating.conflict_mix(place, creating.Load(**load), tell)


@bench.command(short_help="Everybody on one payment code.")
@_closed_loop(8)
@_scenario
def hot_code(place: Place, tell: _Tell, **load: Unpack[_ClosedLoop]) -> Report:
    """Every payment on one code, over several connections; its counter has to be exact.

    \b
    Examples:
      farebox bench hot-code --connections 16
    """
    from farebox.bench import creating

    return creating.hot_code(place, creating.Load(**load), tell)


@bench.command(short_help="Few companies and many.")
@_closed_loop(1)
@click.option(
    "--companies",
    callback=_counts(1),
    metavar="N,N,...",
    default="1,10,100,1000,10000",
    show_default=True,
    help="So many each time.",
)
@_scenario
def many_companies(place: Place, tell: _Tell, companies: list[int], **load: Unpack[_ClosedLoop]) -> Report:
    """Payments of few companies and of many, by turns.

    \b
    Examples:
      farebox bench many-companies --companies 10,10000
    """
    from farebox.bench import creating

    return creating.many_companies(place, creating.Load(**load), tell, counts=companies)


@bench.command(short_help="Growing tables, beside an empty database.")
@_batch
@_connections(1)
@_rows
@_rounds(20)
@click.option(
    "--sizes",
    callback=_counts(0),
    metavar="N,N,...",
    default="0,100000,1000000",
    show_default=True,
    help="Tickets in the table.",
)
@click.option("--never-analysed", is_flag=True, help="Also in a database as full that has no statistics.")
@_scenario
def growth(
    place: Place,
    tell: _Tell,
    sizes: list[int],
    never_analysed: bool,
    batch: int,
    connections: int,
    rows: int,
    rounds: int,
) -> Report:
    """The rate at growing sizes of the table, by turns with an empty database on the same server.

    \b
    Examples:
      farebox bench growth --sizes 0,1000000,10000000 --html growth.html
    """
    from farebox.bench import creating, growing

    return growing.growth(
        place,
        creating.Load(batch, connections, rows, rounds),
        tell,
        sizes=sizes,
        never_analysed=never_analysed,
    )


@bench.command(short_help="Through the queue, beside direct.")
@_batch
@_connections(2)
@_rows
@_rounds(20)
@_scenario
def queue(place: Place, tell: _Tell, batch: int, connections: int, rows: int, rounds: int) -> Report:
    """Stored and processed, with as many producers as workers, beside `create_tickets`.

    \b
    Examples:
      farebox bench queue --connections 4 --batch 500
    """
    from farebox.bench import creating, queueing

    return queueing.queue(place, creating.Load(batch, connections, rows, rounds), tell)


@bench.command(short_help="Thousands of callers at the same moment.")
@_batch
@_connections(4)
@_rounds(5)
@click.option(
    "--callers",
    callback=_counts(1),
    metavar="N,N,...",
    default="1000,5000,10000,50000",
    show_default=True,
    help="So many each time.",
)
@_scenario
def burst(place: Place, tell: _Tell, callers: list[int], batch: int, connections: int, rounds: int) -> Report:
    """Callers of `create_ticket` in one process, all at the same moment, through the driver.

    \b
    Examples:
      farebox bench burst --callers 10000 --rounds 10
    """
    from farebox.bench import calling

    return calling.burst(place, calling.Client(connections, batch), tell, callers=callers, rounds=rounds)


@bench.command(short_help="Single calls at a steady rate.")
@_batch
@_connections(4)
@click.option("--rate", type=click.FloatRange(1), default=1000.0, show_default=True, help="Calls a second.")
@click.option(
    "--duration",
    callback=_seconds,
    metavar="TIME",
    default="30s",
    show_default=True,
    help="Such as 90s, 10m or 1h.",
)
@click.option(
    "--filled", type=click.IntRange(0), default=0, show_default=True, help="Tickets that are there before."
)
@_scenario
def steady(
    place: Place, tell: _Tell, rate: float, duration: float, filled: int, batch: int, connections: int
) -> Report:
    """Single calls of `create_ticket` through the driver, each made when it is due: an open loop.

    A latency counts from when its call was due, so that a stall counts against every call it delayed.

    \b
    Examples:
      farebox bench steady --rate 5000 --duration 1h --html hour.html
    """
    from farebox.bench import calling

    client = calling.Client(connections, batch)
    return calling.steady(place, client, tell, rate=rate, seconds=duration, filled=filled)


def show_report(out: Output, report: Report) -> None:
    """Tables for people, or the whole of it as JSON."""
    if out.as_json:
        out.document(report.document(), "")
        return
    e = report.environment
    out.say(f"PostgreSQL {e['server_version']}, {e['durability']}", style="bold" if not report.ok else "")
    where = "the same machine" if e["server_is_local"] else "another machine"
    out.say(
        f"server on {where} as the client: {e['client_cores']} cores, load {e['client_load']} at the start"
    )
    out.say(", ".join(f"{name} {value}" for name, value in e["settings"].items()))
    out.say(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in report.parameters.items()))
    out.say("")
    out.rows_for_people(
        (
            {
                "name": line.name,
                "rate": round(line.rate),
                "least": round(min(line.rates)),
                "most": round(max(line.rates)),
                "ratio": "" if line.ratio is None else f"{line.ratio:.2f}",
                "spread": "" if line.ratio is None else f"{min(line.ratios):.2f} to {max(line.ratios):.2f}",
            }
            for line in report.lines
        ),
        [
            Column("name", heading=report.scenario),
            Column("rate", "count", "a second"),
            Column("least", "count"),
            Column("most", "count"),
            Column("ratio", heading=f"over {report.base}" if report.base else "ratio"),
            Column("spread", heading="of rounds"),
        ],
    )
    out.say("")
    out.rows_for_people(
        (
            {"name": name} | {f"p{share:g}": f"{latencies.percentile(share) * 1e3:,.2f}" for share in _SHARES}
            for name, latencies in report.latencies.items()
        ),
        [
            Column("name", heading="latency, ms"),
            *(Column(f"p{share:g}") for share in _SHARES[:-1]),
            Column("p100", heading="max"),
        ],
    )
    for name, value in report.facts.items():
        out.say(f"{name}: {value}")
    for violation in report.violations[:10]:
        out.warn(f"{violation.invariant}: {violation.subject}: {violation.detail}")
    for check in report.checks:
        if not check.ok:
            out.warn(f"{check.what}: {check.found}, where {check.expected} must be")
    if report.ok:
        out.say("all invariants hold", style="green")


_SHARES: Final = (50, 95, 99, 99.9, 100)
