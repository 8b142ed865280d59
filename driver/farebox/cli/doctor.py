"""`farebox doctor`: what is wrong, why it matters, what mends it."""

from __future__ import annotations

import contextlib

import click
from rich.text import Text

from farebox.cli.output import Exit, Output, printable
from farebox.cli.session import Session, with_session
from farebox.doctor import Check, Finding, Level, diagnose, repair, worst
from farebox.errors import FareboxError

_STYLE = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "bold red"}


@click.command(short_help="Find what is wrong, and what mends it.")
@click.option("--fix", is_flag=True, help="Mend what is safe to mend, then look again.")
@click.option("--quick", is_flag=True, help="Leave out what reads whole tables (the invariants).")
@click.option("--quiet", is_flag=True, help="Leave out what is fine.")
@with_session
def doctor(session: Session, fix: bool, quick: bool, quiet: bool) -> None:
    """Look at everything that is known to go wrong; say why it matters, and the command or SQL that mends it.

    Reads only, unless --fix is given: then missing indexes are built (without stopping sales), invalid ones
    rebuilt, statistics and dead rows seen to, records written, missing grants given. Nothing is ever removed.

    Ends with 0 when all is well, with 1 for warnings, with 6 when there is a problem.

    \b
    Examples:
      farebox doctor
      farebox doctor --quiet --quick --json     for a monitoring system
      farebox doctor --fix
    """
    findings = _examine(session, quick)
    if fix and any(finding.repairs for finding in findings):
        for finding in findings:
            _mend(session, finding)
        findings = _examine(session, quick)
    for finding in findings:
        if not (quiet and finding.level is Level.OK):
            _show(session.out, finding)
    counts = {level: sum(finding.level is level for finding in findings) for level in Level}
    session.out.say(
        f"{counts[Level.OK]} fine, {counts[Level.WARNING]} warnings, {counts[Level.PROBLEM]} problems",
        style=_STYLE[worst([finding.level for finding in findings])],
    )
    if counts[Level.PROBLEM]:
        raise click.exceptions.Exit(Exit.PROBLEM)
    if counts[Level.WARNING]:
        raise click.exceptions.Exit(Exit.FOUND)


def _examine(session: Session, quick: bool) -> list[Finding]:
    with contextlib.ExitStack() as stack:
        # Seen in a terminal only, and gone when it is done.
        status = stack.enter_context(session.out.err.status("looking"))

        def on_check(check: Check) -> None:
            status.update(f"looking at: {check.name}")

        return list(diagnose(session.dsn, quick=quick, on_check=on_check))


def _mend(session: Session, finding: Finding) -> None:
    if not finding.repairs:
        return
    try:
        with session.out.err.status(f"mending: {finding.message}"):
            repair(session.dsn, finding)
    except FareboxError as error:
        session.out.warn(f"could not mend: {finding.message}: {error}")
    else:
        session.out.hint(f"mended: {finding.message}")


def _show(out: Output, finding: Finding) -> None:
    if out.as_json:
        out.document(
            {
                "check": finding.check,
                "level": finding.level,
                "message": finding.message,
                "why": finding.why,
                "fix": finding.fix,
                "safe_to_fix": bool(finding.repairs),
            },
            "",
        )
        return
    line = Text.assemble(
        (f"{finding.level:<8}", _STYLE[finding.level]),
        (f"{finding.check}: ", "bold"),
        printable(finding.message),
    )
    out.console.print(line)
    if finding.level is not Level.OK:
        out.console.print(Text(f"  why:   {printable(finding.why)}"))
        if finding.fix:
            out.console.print(Text(f"  fix:   {printable(finding.fix)}"))
