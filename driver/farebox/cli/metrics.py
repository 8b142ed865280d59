"""`farebox metrics`: the numbers of a database for Prometheus, printed or served."""

from __future__ import annotations

import re
import signal
import sys
import threading
from typing import Final

import click

from farebox.cli.output import Exit, Failure
from farebox.cli.session import Session, with_session
from farebox.monitoring.samples import GROUPS, collect, render

NO_CLIENT: Final = Failure(
    "prometheus_client is not installed", Exit.FAILED, hint="pip install 'farebox[metrics]'"
)


def read_address(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> tuple[str, int] | None:
    """A callback for options like 127.0.0.1:9187 or [::1]:9187. Raises BadParameter."""
    if value is None:
        return None
    match = re.fullmatch(r"(?:\[([^\]]+)\]|([^:]+)):(\d{1,5})", value)
    if match is None or int(match[3]) > 65535:
        raise click.BadParameter(f"{value} is not HOST:PORT, such as 127.0.0.1:9187")
    return match[1] or match[2], int(match[3])


@click.command(short_help="Print or serve metrics for Prometheus.")
@click.option(
    "--group",
    "groups",
    type=click.Choice(GROUPS),
    multiple=True,
    help="Only this group; may be given several times.",
)
@click.option(
    "--serve",
    "address",
    metavar="HOST:PORT",
    callback=read_address,
    help="Serve http://HOST:PORT/metrics until stopped. Needs farebox[metrics].",
)
@with_session
def metrics(session: Session, groups: tuple[str, ...], address: tuple[str, int] | None) -> None:
    """Print the metrics of the database in the text format of Prometheus, or serve them.

    A login of farebox_worker will do; as a member of pg_monitor it also sees the ages of other logins'
    transactions. Ends with 3 when the database does not answer.

    \b
    Examples:
      farebox metrics --group queue
      farebox metrics --serve 127.0.0.1:9187
      farebox metrics > /var/lib/node_exporter/textfile/farebox.prom
    """
    chosen = groups or GROUPS
    if address is not None:
        _serve(session, chosen, address)
        return
    families = collect(session.dsn, chosen)
    if session.out.as_json:
        for family in families:
            for sample in family.samples:
                session.out.document(
                    {"metric": family.name, "labels": dict(sample.labels), "value": sample.value}, ""
                )
    else:
        click.echo(render(families), nl=False)
    if any(family.name == "farebox_up" and family.samples[0].value == 0 for family in families):
        raise Failure(
            "the database does not answer",
            Exit.DATABASE,
            hint="Is the server up, and --dsn or FAREBOX_DSN right?",
        )


def _serve(session: Session, groups: tuple[str, ...], address: tuple[str, int]) -> None:
    try:
        from farebox.monitoring.exporter import registry_of, served
    except ModuleNotFoundError:
        raise NO_CLIENT from None
    stop = threading.Event()

    def end(_number: int, _frame: object) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    with served(registry_of(session.dsn, groups), *address) as url:
        session.out.document({"serving": url}, f"serving {url}")
        # Who started us waits for this line.
        sys.stdout.flush()
        stop.wait()
