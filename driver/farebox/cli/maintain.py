"""`farebox maintain`: the work that keeps a database in order."""

from __future__ import annotations

import contextlib
from datetime import timedelta
from typing import Final

import click

from farebox.cli.session import Session, with_session
from farebox.monitoring import upkeep

_MOST_DAYS: Final = 2_000_000
"""Earlier than that is no time for PostgreSQL."""


@click.command(short_help="Keep the database in order.")
@click.option(
    "--only",
    type=click.Choice([task.name for task in upkeep.TASKS]),
    multiple=True,
    help="Only this task; may be given several times.",
)
@click.option(
    "--keep-resolved",
    metavar="DAYS",
    type=click.IntRange(0, _MOST_DAYS),
    default=365,
    show_default=True,
    help="How long unapplied payments are kept after they got their ticket. Open ones are always kept.",
)
@click.option(
    "--keep-conflicts",
    metavar="DAYS",
    type=click.IntRange(0, _MOST_DAYS),
    default=90,
    show_default=True,
    help="How long queued requests that ended in a conflict are kept.",
)
@click.option("--pg-cron", "as_cron", is_flag=True, help="Print SQL for the extension pg_cron instead.")
@with_session
def maintain(
    session: Session, only: tuple[str, ...], keep_resolved: int, keep_conflicts: int, as_cron: bool
) -> None:
    """Expire codes, write missing records, apply what became applicable, purge, analyze.

    Safe to run anywhere, any time, twice at once; interrupted, it has done what it has done. A login of
    farebox_worker will do.

    \b
    Examples:
      farebox maintain                        hourly, by cron or a systemd timer
      farebox maintain --only expire          every minute
      farebox maintain --pg-cron | psql       or let the database do it
    """
    retention = upkeep.Retention(timedelta(days=keep_resolved), timedelta(days=keep_conflicts))
    if as_cron:
        text = upkeep.cron_sql(only=frozenset(only), retention=retention)
        if session.out.as_json:
            session.out.document({"sql": text}, "")
        else:
            click.echo(text)
        return
    with contextlib.ExitStack() as stack:
        status = stack.enter_context(session.out.err.status("starting"))
        done = upkeep.run(
            session.dsn,
            only=frozenset(only),
            retention=retention,
            on_task=lambda task: status.update(f"{task.name} …"),
        )
        for task, count in done:
            session.out.document({"task": task.name, "done": count}, f"{task.name:<8} {task.does}: {count:,}")
