"""What the commands share: the options --dsn and --json, the connection, errors turned into exit codes."""

from __future__ import annotations

import functools
import os
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Concatenate, NoReturn, ParamSpec, TypeVar

import click
import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from farebox import Farebox
from farebox._dsn import Target
from farebox.cli.output import Exit, Failure, Output
from farebox.errors import FareboxError
from farebox.server import resolve_dsn

_P = ParamSpec("_P")
_R = TypeVar("_R")
_JSON_KEY = "farebox.as_json"


class Session:
    """The shared options of one command line."""

    def __init__(self, dsn: str | None, out: Output) -> None:
        self._dsn = dsn
        self.out = out

    @property
    def is_dsn_given(self) -> bool:
        """Whether a database was named, so that the embedded server is out of it."""
        return bool(self._dsn or os.environ.get("FAREBOX_DSN"))

    @property
    def dsn(self) -> str:
        """The database to work on. Raises ConfigurationError when there is none, or for a malformed DSN.

        Checked here, because what libpq says about a malformed one quotes parts of it.
        """
        dsn = resolve_dsn(self._dsn)
        Target(dsn)
        return dsn

    @contextmanager
    def connect(self) -> Generator[Farebox]:
        """A client of that database, closed at the end."""
        with Farebox(self.dsn) as client:
            yield client


def with_output(command: Callable[Concatenate[Output, _P], _R]) -> Callable[..., _R]:
    """Give a command the option --json and, as its first argument, the `Output` made of it."""

    @click.option("--json", "as_json", is_flag=True, help="Print JSON for programs: an object a line.")
    @functools.wraps(command)
    def wrapper(as_json: bool, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        click.get_current_context().meta[_JSON_KEY] = as_json
        return command(Output(as_json=as_json), *args, **kwargs)

    return wrapper


def with_session(command: Callable[Concatenate[Session, _P], _R]) -> Callable[..., _R]:
    """Give a command the options --dsn and --json and, as its first argument, the `Session` made of them."""

    @click.option(
        "--dsn",
        metavar="DSN",
        help="The database: a postgresql:// address or key=value pairs. Without it FAREBOX_DSN, else the "
        "embedded server. Others can see a command line: leave the password to FAREBOX_DSN or a passfile.",
    )
    @functools.wraps(command)
    def wrapper(out: Output, /, dsn: str | None, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        return command(Session(dsn, out), *args, **kwargs)

    return with_output(wrapper)


def shown_dsn(dsn: str) -> str:
    """The connection string without its secrets, good to print and, where a passfile holds them, to use."""
    try:
        parameters = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        return "(not a valid connection string)"
    return make_conninfo("", **{key: value for key, value in parameters.items() if "password" not in key})


class RootGroup(click.Group):
    """The group `farebox`: every command ends with a code of `Exit`, expected errors without a traceback."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Look for --json before anything else: a command line that is wrong is told as JSON too."""
        ctx.meta[_JSON_KEY] = "--json" in args
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            return _end(ctx, _as_failure(ctx, error))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; turn what it raises into a message and an exit code."""
        try:
            return super().invoke(ctx)
        except FareboxError as error:
            failure = Failure.from_error(error)
        except Failure as error:
            failure = error
        except (KeyboardInterrupt, click.Abort):
            failure = Failure("stopped", Exit.INTERRUPTED, hint="It is safe to run the command again.")
        except (click.exceptions.Exit, BrokenPipeError):
            raise
        except click.ClickException as error:
            failure = _as_failure(ctx, error)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            failure = Failure(f"{where}{error.strerror or error}", Exit.FAILED)
        except Exception as error:
            # Without the message, which can quote data.
            traceback.print_tb(error.__traceback__)
            failure = Failure(f"a bug in farebox: {type(error).__name__}", Exit.BUG)
        return _end(ctx, failure)


def _as_failure(ctx: click.Context, error: click.ClickException) -> Failure:
    """Click's own errors as one of ours, for programs; people see them as click shows them."""
    if not ctx.meta[_JSON_KEY]:
        raise error
    where = error.ctx if isinstance(error, click.UsageError) and error.ctx else ctx
    return Failure(error.format_message(), Exit(error.exit_code), hint=f"{where.command_path} --help")


def _end(ctx: click.Context, failure: Failure) -> NoReturn:
    failure.show(as_json=bool(ctx.meta[_JSON_KEY]))
    raise click.exceptions.Exit(failure.exit_code)
