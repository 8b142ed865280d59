"""The entry point of the command `farebox`."""

from __future__ import annotations

import logging

import click

from farebox.cli.bench import bench
from farebox.cli.catalog import code, company, route
from farebox.cli.completion import completion
from farebox.cli.demo import demo
from farebox.cli.doctor import doctor
from farebox.cli.embedded import down, up
from farebox.cli.maintain import maintain
from farebox.cli.metrics import metrics
from farebox.cli.migrations import migrate, print_sql, rollback, status
from farebox.cli.operations import records, unapplied, verify
from farebox.cli.output import EXIT_CODES_HELP
from farebox.cli.queue import enqueue, queue
from farebox.cli.session import RootGroup
from farebox.cli.shards import shards
from farebox.cli.tickets import create, import_payments
from farebox.cli.top import top
from farebox.cli.worker import worker


@click.group(
    cls=RootGroup,
    epilog=EXIT_CODES_HELP,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(package_name="farebox", prog_name="farebox")
@click.option("-v", "--verbose", count=True, help="Log what the driver does to stderr; twice: each batch.")
def cli(verbose: int) -> None:
    """Farebox turns mobile-money payments into bus tickets, exactly once each.

    A command works on the database of --dsn, else of FAREBOX_DSN, else on the embedded server (`farebox up`).
    With --json a command prints one JSON object a line, and errors and warnings likewise on stderr.
    """
    log = logging.getLogger("farebox")
    if verbose:
        log.addHandler(logging.StreamHandler())
        log.setLevel(logging.INFO if verbose == 1 else logging.DEBUG)
    else:
        # Errors end the command and are told then; what was retried with success is no news.
        log.addHandler(logging.NullHandler())


for _command in (
    *(up, down, demo),
    *(migrate, rollback, status, print_sql),
    *(company, route, code),
    *(create, import_payments),
    *(unapplied, records, verify),
    *(doctor, maintain, metrics, top),
    bench,
    *(enqueue, queue, worker),
    shards,
    completion,
):
    cli.add_command(_command)


def main() -> None:
    """Run the command line and exit with its code."""
    cli(prog_name="farebox")
