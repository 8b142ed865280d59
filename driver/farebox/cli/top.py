"""`farebox top`: what goes on, live."""

from __future__ import annotations

import contextlib
import select
import sys
import time
from collections.abc import Callable, Generator
from datetime import datetime
from typing import Final

import click
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from farebox.cli.output import printable
from farebox.cli.session import Session, with_session
from farebox.monitoring.board import Reading, Rows, read

_SORTS: Final[dict[str, Callable[[dict[str, object]], tuple[float, str]]]] = {
    "tickets": lambda row: (-_number(row["tickets"]), str(row["name"])),
    "waiting": lambda row: (-_number(row.get("waits")), str(row["name"])),
    "name": lambda row: (0, str(row["name"])),
}
_OUTCOMES: Final = ("created", "duplicate", "conflict", "rejected")
_ROWS: Final = 8
_UNITS: Final = {"waits": " s"}


@click.command(short_help="Watch what goes on, live.")
@click.option(
    "--interval",
    type=click.FloatRange(0.2, 60),
    default=2,
    show_default=True,
    help="Seconds between two readings.",
)
@click.option(
    "--sort", type=click.Choice(list(_SORTS)), default="tickets", help="Order of companies and codes."
)
@click.option("--once", is_flag=True, help="Print one picture and end (so it is without a terminal).")
@with_session
def top(session: Session, interval: float, sort: str, once: bool) -> None:
    """Watch tickets a second, outcomes, batches, queue, workers, locks, hot codes and companies.

    Keys: p pauses, s sorts differently, q quits. A login of farebox_worker will do; pg_monitor sees more.

    \b
    Examples:
      farebox top
      farebox top --interval 1 --sort waiting
      farebox top --once
    """
    dsn = session.dsn
    if once or session.out.as_json or not (sys.stdin.isatty() and session.out.console.is_terminal):
        before = read(dsn)
        time.sleep(min(interval, 1))
        now = read(dsn)
        if session.out.as_json:
            session.out.document(_numbers(now, before), "")
        else:
            session.out.console.print(picture(now, before, sort, is_paused=False))
        return
    _watch(session, dsn, interval, sort)


def _watch(session: Session, dsn: str, interval: float, sort: str) -> None:
    orders = list(_SORTS)
    now, before, is_paused = read(dsn), None, False
    with (
        _keys() as pressed,
        Live(
            picture(now, before, sort, is_paused=is_paused),
            console=session.out.console,
            screen=True,
            auto_refresh=False,
        ) as live,
    ):
        due = time.monotonic() + interval
        while True:
            key = pressed(max(due - time.monotonic(), 0))
            if key in ("q", "\x03", "\x04"):
                return
            if key == "p":
                is_paused = not is_paused
            elif key == "s":
                sort = orders[(orders.index(sort) + 1) % len(orders)]
            elif key is None:
                due = time.monotonic() + interval
                if not is_paused:
                    now, before = read(dsn), now
            live.update(picture(now, before, sort, is_paused=is_paused), refresh=True)


@contextlib.contextmanager
def _keys() -> Generator[Callable[[float], str | None]]:
    """Single keys from the terminal: the function waits so many seconds at most for one."""
    # Not everywhere to be had, and needed only here.
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    saved = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)

    def pressed(seconds: float) -> str | None:
        ready, _, _ = select.select([descriptor], [], [], seconds)
        # An end of input, as from a terminal that is gone, is a reason to quit.
        return (sys.stdin.read(1) or "q") if ready else None

    try:
        yield pressed
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, saved)


def picture(now: Reading, before: Reading | None, sort: str, *, is_paused: bool) -> RenderableType:
    """All of it, for any width."""
    clock = datetime.now().astimezone().strftime("%H:%M:%S")
    state = Text("PAUSED", style="black on yellow") if is_paused else Text(clock, style="dim")
    title = Text.assemble(("farebox top", "bold"), f"  {now.server}  ", state)
    keys = Text(f"p pause   s sort ({sort})   q quit", style="dim")
    if not now.is_up:
        return Group(title, Text("the database does not answer; trying again", style="bold red"), keys)
    boxes = [_selling(now, before), _batches(now, before), _queue(now, before), _server(now)]
    lists = [
        _list("companies, newest tickets", now.companies, sort, ("name", "tickets", "queued", "waits")),
        _list("hot codes", now.codes, sort, ("name", "tickets", "used", "total")),
    ]
    parts: list[RenderableType] = [title, Columns(boxes), Columns(lists)]
    if now.locks:
        parts.append(_locks(now.locks))
    return Group(*parts, keys)


def _selling(now: Reading, before: Reading | None) -> Panel:
    rates = {outcome: _outcomes(now, before, outcome) for outcome in _OUTCOMES}
    return _box(
        "a second",
        ("tickets created", _shown(rates["created"]), ""),
        ("duplicates", _shown(rates["duplicate"]), ""),
        ("conflicts", _shown(rates["conflict"]), "yellow" if rates["conflict"] else ""),
        ("rejected", _shown(rates["rejected"]), "yellow" if rates["rejected"] else ""),
        ("commits", _shown(now.rate(before, "farebox_commits_total")), ""),
    )


def _outcomes(now: Reading, before: Reading | None, outcome: str) -> float | None:
    return now.rate(before, "farebox_ticket_outcomes_total", outcome=outcome)


def _batches(now: Reading, before: Reading | None) -> Panel:
    oldest = now.value("farebox_batch_running_seconds")
    calls = now.rate(before, "farebox_statement_calls_total")
    seconds = now.rate(before, "farebox_statement_seconds_total")
    average = seconds / calls if calls and seconds is not None else None
    return _box(
        "batches, money",
        ("running", _shown(now.value("farebox_batches_running"), 0), ""),
        ("oldest", _shown(oldest, 1, " s"), _alarm(oldest, 2, 5)),
        ("average", _shown(None if average is None else average * 1000, 1, " ms"), _alarm(average, 2, 5)),
        ("unapplied", _shown(now.sum("farebox_unapplied_payments") or 0, 0), ""),
        ("codes low", _shown(now.value("farebox_payment_codes_nearly_spent"), 0), ""),
    )


def _queue(now: Reading, before: Reading | None) -> Panel:
    size, workers = now.value("farebox_queue_size"), now.value("farebox_workers")
    dead, retries = now.value("farebox_queue_dead"), now.rate(before, "farebox_queue_retries_total")
    return _box(
        "queue",
        ("queued", _shown(size, 0), _alarm(size, 1000, 5000)),
        ("oldest", _shown(now.value("farebox_queue_oldest_seconds"), 1, " s"), ""),
        ("workers", _shown(workers, 0), "bold red" if size and not workers else ""),
        ("retries/s", _shown(retries), "yellow" if retries else ""),
        ("dead", _shown(dead, 0), "yellow" if dead else ""),
    )


def _server(now: Reading) -> Panel:
    used, most = now.sum("farebox_connections"), now.value("farebox_connections_limit")
    share = used / most if used is not None and most else None
    blocked = now.value("farebox_blocked_sessions")
    oldest = now.value("farebox_oldest_transaction_seconds")
    return _box(
        "server",
        ("connections", f"{_shown(used, 0)} of {_shown(most, 0)}", _alarm(share, 0.8, 0.95)),
        ("waiting for locks", _shown(blocked, 0), "yellow" if blocked else ""),
        ("oldest transaction", _shown(oldest, 0, " s"), _alarm(oldest, 300, 3600)),
        ("deadlocks", _shown(now.value("farebox_deadlocks_total"), 0), ""),
    )


def _box(title: str, *lines: tuple[str, str, str]) -> Panel:
    table = Table.grid(padding=(0, 1))
    table.add_column()
    table.add_column(justify="right", min_width=9)
    for label, value, style in lines:
        table.add_row(label, Text(value, style=style or "bold"))
    return Panel(table, title=title, title_align="left", expand=False)


def _list(title: str, rows: Rows, sort: str, keys: tuple[str, ...]) -> Panel:
    table = Table(box=None, pad_edge=False)
    for key in keys:
        table.add_column(key, justify="left" if key == "name" else "right", overflow="ellipsis", max_width=28)
    for row in sorted(rows, key=_SORTS[sort])[:_ROWS]:
        table.add_row(
            *(
                printable(str(row[key]))
                if key == "name"
                else _shown(_number(row[key]), 0, _UNITS.get(key, ""))
                for key in keys
            )
        )
    return Panel(
        table if rows else Text("nobody", style="dim"), title=title, title_align="left", expand=False
    )


def _locks(rows: Rows) -> Panel:
    table = Table(box=None, pad_edge=False)
    for heading in ("pid", "waits", "for pid", "of", "program", "which is"):
        table.add_column(heading)
    for row in rows:
        who = (str(row["login"]), str(row["program"]), str(row["state"]))
        table.add_row(str(row["pid"]), f"{row['seconds']:.1f} s", str(row["blocker"]), *map(printable, who))
    return Panel(table, title="locks", title_align="left", border_style="yellow", expand=False)


def _numbers(now: Reading, before: Reading) -> dict[str, object]:
    return {
        "up": now.is_up,
        **{f"{outcome}_per_second": _outcomes(now, before, outcome) for outcome in _OUTCOMES},
        "retried_per_second": now.rate(before, "farebox_queue_retries_total"),
        "queue_size": now.value("farebox_queue_size"),
        "workers": now.value("farebox_workers"),
        "blocked_sessions": now.value("farebox_blocked_sessions"),
        "companies": {str(row["name"]): row["tickets"] for row in now.companies},
    }


def _shown(value: float | None, digits: int = 1, unit: str = "") -> str:
    return "-" if value is None else f"{value:,.{digits}f}{unit}"


def _alarm(value: float | None, warning: float, problem: float) -> str:
    if value is None or value <= warning:
        return ""
    return "bold red" if value > problem else "bold yellow"


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
