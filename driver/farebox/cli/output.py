"""What every command prints and how it ends: tables for people, JSON for programs, stable exit codes."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from typing import IO, Literal, cast

from rich.console import Console
from rich.table import Table
from rich.text import Text

from farebox.errors import (
    ConfigurationError,
    FareboxError,
    MigrationError,
    NotMigratedError,
    PermissionDeniedError,
    ServerError,
    TransientError,
    UsageError,
)

Row = Mapping[str, object]

PIPED_WIDTH = 10_000
"""Columns when the output is no terminal: wide enough that nothing is ever folded."""


class Exit(IntEnum):
    """The exit codes of every command; scripts rely on them."""

    OK = 0
    FOUND = 1
    USAGE = 2
    DATABASE = 3
    DENIED = 4
    FAILED = 5
    PROBLEM = 6
    BUG = 70
    INTERRUPTED = 130


EXIT_CODES_HELP = """\b
Exit codes:
  0    all is well
  1    something was not created or accepted, or a check found something
  2    wrong usage: an option, an argument, or input that cannot be read
  3    the database cannot be reached, or is not set up (farebox up, farebox migrate)
  4    the login may not do this
  5    the database refused for another reason
  6    the doctor found a problem (1: warnings at most)
  70   a bug in farebox
  130  interrupted
"""

_EXIT_OF: tuple[tuple[tuple[type[FareboxError], ...], Exit, str | None], ...] = (
    ((UsageError,), Exit.USAGE, None),
    (
        (TransientError,),
        Exit.DATABASE,
        "Is the server up, and --dsn or FAREBOX_DSN right? It is safe to run the command again.",
    ),
    ((ConfigurationError,), Exit.DATABASE, "Check --dsn or FAREBOX_DSN."),
    ((NotMigratedError, MigrationError, ServerError), Exit.DATABASE, None),
    (
        (PermissionDeniedError,),
        Exit.DENIED,
        "Use a login of the right group: farebox_app creates and reads, farebox_admin does the rest.",
    ),
)


class Failure(Exception):  # noqa: N818 - it ends a command, nobody catches it
    """An expected error: a message, what to do about it, an exit code. Shown without a traceback."""

    def __init__(
        self, message: str, exit_code: Exit, *, hint: str | None = None, sqlstate: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code
        self.hint = hint
        self.sqlstate = sqlstate

    @classmethod
    def from_error(cls, error: FareboxError) -> Failure:
        """The failure for an error of the driver, with its hint or the one that fits its class."""
        message = str(error.args[0]) if error.args else type(error).__name__
        if error.detail:
            message = f"{message}: {error.detail}"
        for kinds, code, hint in _EXIT_OF:
            if isinstance(error, kinds):
                return cls(message, code, hint=error.hint or hint, sqlstate=error.sqlstate)
        return cls(message, Exit.FAILED, hint=error.hint, sqlstate=error.sqlstate)

    def show(self, *, as_json: bool) -> None:
        """Print to stderr: two lines for people, one JSON object for programs."""
        if as_json:
            error = {"message": self.message, "hint": self.hint, "sqlstate": self.sqlstate}
            sys.stderr.write(json.dumps({"error": error, "exit_code": int(self.exit_code)}) + "\n")
            return
        console = _console(sys.stderr)
        code = f" [{self.sqlstate}]" if self.sqlstate else ""
        message = printable(" ".join(self.message.split()))
        console.print(Text.assemble(("error: ", "bold red"), message, code))
        if self.hint:
            console.print(Text.assemble(("hint:  ", "bold"), printable(self.hint)))


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: the row's key, how to show it, and the heading (default: the key in words)."""

    key: str
    kind: Literal["text", "id", "count", "money", "time"] = "text"
    heading: str = ""


class Output:
    """What one command prints. With `as_json`, every row is a line of JSON and notes are left out."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.console = _console(sys.stdout)
        self.err = _console(sys.stderr)

    def rows(self, rows: Iterable[Row], columns: Sequence[Column]) -> None:
        """Many rows: a table with these columns, or JSON lines with all keys (streamed, in order)."""
        if self.as_json:
            for row in rows:
                _print_json(row)
            return
        self.rows_for_people(rows, columns)

    def rows_for_people(self, rows: Iterable[Row], columns: Sequence[Column]) -> None:
        """A table, or nothing at all with JSON."""
        if self.as_json:
            return
        table = Table(box=None, pad_edge=False)
        for column in columns:
            right = column.kind in ("count", "money")
            heading = column.heading or column.key.replace("_", " ")
            # What people copy stays in one piece where the terminal has the room.
            whole = column.kind in ("id", "time")
            table.add_column(heading, justify="right" if right else "left", overflow="fold", no_wrap=whole)
        with self.working("reading") as tell:
            for row in rows:
                table.add_row(*(Text(_cell(row.get(column.key), column.kind)) for column in columns))
                if table.row_count % 1000 == 0:
                    tell(table.row_count)
        self.console.print(table if table.row_count else Text("nothing"))

    def document(self, document: Row, text: str) -> None:
        """One result: a JSON object for programs, a sentence for people."""
        if self.as_json:
            _print_json(document)
        else:
            self.console.print(Text(printable(text)))

    def say(self, text: str, style: str = "") -> None:
        """A line for people only."""
        if not self.as_json:
            self.console.print(Text(printable(text), style=style))

    @contextmanager
    def working(self, text: str) -> Generator[Callable[[int], None]]:
        """Show on a terminal that something goes on, gone when it is done; the function adds how far."""
        with self.err.status(text) as status:
            yield lambda count: status.update(f"{text}: {count:,}")

    def hint(self, text: str) -> None:
        """A line for people only, on stderr: out of the way of what is piped on."""
        if not self.as_json:
            self.err.print(Text(printable(text), style="dim"))

    def warn(self, text: str) -> None:
        """A line on stderr, for programs as JSON: something that is no failure but should be known."""
        if self.as_json:
            sys.stderr.write(json.dumps({"warning": text}) + "\n")
            return
        self.err.print(Text.assemble(("warning: ", "yellow"), printable(text)))


def printable(text: str) -> str:
    """`text` with control and direction characters escaped: data must not steer the terminal."""
    if text.isprintable():
        return text
    return "".join(
        character
        if character == "\n" or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
        else character.encode("unicode_escape", "surrogatepass").decode()
        for character in text
    )


def money(amount: int) -> str:
    """Minor units as leones: 14700 is `147.00`."""
    sign = "-" if amount < 0 else ""
    return f"{sign}{abs(amount) // 100:,}.{abs(amount) % 100:02d}"


def _cell(value: object, kind: str) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        # What people copy is no sum: 3533, not 3,533.
        return money(value) if kind == "money" else str(value) if kind == "id" else f"{value:,}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, cast(Iterable[object], value)))
    return printable(str(value)).replace("\n", "\\n")


def _console(stream: IO[str]) -> Console:
    width = None if stream.isatty() else PIPED_WIDTH
    return Console(file=stream, width=width, highlight=False, soft_wrap=width is None)


def _print_json(row: Row) -> None:
    # All in ASCII: a stored request may hold half a surrogate pair, which has no UTF-8 but has an escape.
    sys.stdout.write(json.dumps(row, default=_json_value) + "\n")


def _json_value(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
