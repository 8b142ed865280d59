"""`farebox migrate|rollback|status|sql`: making a database fit for this version of Farebox, and back."""

from __future__ import annotations

import sys

import click

from farebox import migrate as migrations
from farebox.cli.output import Column, Exit, Failure
from farebox.cli.session import Session, shown_dsn, with_session
from farebox.server import EmbeddedServer


@click.command()
@click.option("--to", "target", metavar="ID", help="Stop after this migration (its id or number).")
@click.option("--break-lock", is_flag=True, help="First remove the lock that a killed `yoyo` left behind.")
@with_session
def migrate(session: Session, target: str | None, break_lock: bool) -> None:
    """Apply what is pending of the migrations; nothing happens when the database is up to date.

    Safe to run at any time and from several machines at once: each migration is applied whole or not at all.
    Rights that are missing are all told at once, with the GRANT for each.

    \b
    Examples:
      farebox migrate
      farebox migrate --to 0002
    """
    if break_lock:
        session.out.say("removed a lock" if migrations.break_lock(session.dsn) else "there was no lock")
    with session.out.working("migrating"):
        applied = migrations.apply(session.dsn, target=target)
    people = "\n".join(f"applied {name}" for name in applied) or "up to date: nothing to apply"
    session.out.document({"applied": applied}, people)


@click.command()
@click.option("--count", type=click.IntRange(1), help="How many to roll back. Default: 1.")
@click.option("--to", "target", metavar="ID", help="Roll back everything after this migration, which stays.")
@click.option("--all", "everything", is_flag=True, help="Roll back all of them.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@with_session
def rollback(session: Session, count: int | None, target: str | None, everything: bool, yes: bool) -> None:
    """Undo migrations, the last one unless told otherwise. DROPS the data in what they created.

    \b
    Examples:
      farebox rollback
      farebox rollback --to 0003
      farebox rollback --all --yes
    """
    if (count is not None) + (target is not None) + everything > 1:
        raise click.UsageError("--count, --to and --all exclude each other")
    wanted = None if everything else count or 1
    chosen = migrations.preview_rollback(session.dsn, count=wanted, target=target)
    if chosen and not yes:
        if session.out.as_json or not sys.stdin.isatty():
            raise click.UsageError(
                f"this rolls back {', '.join(chosen)} and drops what is in them: add --yes"
            )
        for name in chosen:
            session.out.say(f"to roll back: {name}")
        click.confirm(
            f"Drop what these created in {shown_dsn(session.dsn)}, with all data in it?", abort=True
        )
    with session.out.working("rolling back"):
        undone = migrations.rollback(session.dsn, count=wanted, target=target, expected=chosen)
    people = "\n".join(f"rolled back {name}" for name in undone) or "nothing to roll back"
    session.out.document({"rolled_back": undone}, people)


@click.command()
@click.option(
    "--check", is_flag=True, help="Exit with 1 unless everything is applied and nothing was edited."
)
@with_session
def status(session: Session, check: bool) -> None:
    """Show which migrations are applied, and how the embedded server is when it is the database.

    \b
    Examples:
      farebox status
      farebox status --check     in a deployment: ends with 1 unless all is applied
    """
    if not session.is_dsn_given:
        server = EmbeddedServer().status()
        state = f"running, PostgreSQL {server.version}" if server.running else "not running"
        session.out.say(f"embedded server: {state}; data: {server.data_dir}")
    session.out.say(f"database: {shown_dsn(session.dsn)}")
    states = migrations.status(session.dsn)
    rows = [
        {
            "id": each.id,
            "state": "unknown here" if not each.known else "applied" if each.applied_at else "pending",
            "applied_at": each.applied_at,
            "edited": each.edited,
            "has_rollback": each.has_rollback,
        }
        for each in states
    ]
    session.out.rows(
        rows,
        (
            Column("id", heading="migration"),
            Column("state"),
            Column("applied_at", "time", "applied at"),
            Column("edited"),
            Column("has_rollback", heading="rollback"),
        ),
    )
    if all(each.known and each.applied_at and not each.edited and each.has_rollback for each in states):
        return
    if any(each.known and not each.applied_at for each in states):
        session.out.hint("next: farebox migrate")
    if check:
        raise Failure("the database does not match this version of Farebox", Exit.FOUND)


@click.command("sql")
@click.option("--rollback", "is_rollback", is_flag=True, help="The SQL that undoes the migrations.")
@click.option("--pending", is_flag=True, help="Only what --dsn lacks (with --rollback: what it has).")
@with_session
def print_sql(session: Session, is_rollback: bool, pending: bool) -> None:
    """Print the migrations as one SQL script, for a DBA to review or to paste into a managed console.

    The script is one transaction and notes what it did, so that `farebox migrate` can go on from there.
    Without --pending no database is asked.

    \b
    Examples:
      farebox sql > farebox.sql
      farebox sql --pending | psql -v ON_ERROR_STOP=1
      farebox sql --rollback
    """
    text = migrations.render(rollback=is_rollback, pending_for=session.dsn if pending else None)
    if session.out.as_json:
        session.out.document({"sql": text}, "")
    else:
        # Not through the console: not a character of it may change.
        click.echo(text, nl=False)
