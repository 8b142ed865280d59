"""`farebox up` and `farebox down`: the embedded server."""

from __future__ import annotations

import os

import click

from farebox.cli.output import Output
from farebox.cli.session import shown_dsn, with_output
from farebox.server import EmbeddedServer


@click.command(short_help="Start the embedded server.")
@with_output
def up(out: Output) -> None:
    """Start the embedded PostgreSQL server, making it first if need be, and tell its address.

    Its data lies in your data folder (FAREBOX_HOME names another). It keeps running until `farebox down`;
    every other command uses it when neither --dsn nor FAREBOX_DSN names a database. Needs farebox[embedded].

    \b
    Examples:
      farebox up
      FAREBOX_HOME=/srv/farebox farebox up
    """
    server = EmbeddedServer()
    with out.working("starting"):
        dsn = shown_dsn(server.up())
    out.document({"dsn": dsn, "data_dir": str(server.data_dir)}, f"running: {dsn}\ndata: {server.data_dir}")
    if os.environ.get("FAREBOX_DSN"):
        out.warn("FAREBOX_DSN is set: the other commands work on that database, not on this server")
    else:
        out.hint("next: farebox migrate")


@click.command()
@with_output
def down(out: Output) -> None:
    """Stop the embedded server; its data stays.

    \b
    Examples:
      farebox down
    """
    with out.working("stopping"):
        stopped = EmbeddedServer().down()
    out.document({"stopped": stopped}, "stopped" if stopped else "it was not running")
