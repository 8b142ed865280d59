# ruff: noqa: E501 - sentences and SQL stay in one piece
"""`farebox doctor`: looks at everything that is known to go wrong, says why it matters and what mends it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import psycopg

from farebox._dsn import Target
from farebox.doctor import _activity, _money, _schema, _server, _shards, _tables
from farebox.doctor._finding import CHECKS, Check, Context, Finding, Level, Part, Thresholds, worst
from farebox.errors import FareboxError, map_error

__all__ = ["CHECKS", "Check", "Finding", "Level", "Part", "Thresholds", "diagnose", "repair", "worst"]

# Importing these is what fills the list of checks; this is the order of the report.
_ORDER = [module.__name__ for module in (_server, _shards, _schema, _tables, _activity, _money)]
CHECKS.sort(key=lambda check: _ORDER.index(check.module))

_PATIENCE = timedelta(seconds=30)
_LOCK_PATIENCE = timedelta(seconds=2)


def diagnose(
    dsn: str,
    *,
    thresholds: Thresholds | None = None,
    quick: bool = False,
    only: str | None = None,
    on_check: Callable[[Check], None] | None = None,
) -> Iterator[Finding]:
    """Examine the database with that DSN; a finding for each thing wrong, and one for each check that is fine.

    Reads only. `quick` leaves out what reads whole tables (`verify()`), `only` all but the check of that name.
    `on_check` is told before each check.
    Raises TransientError or ConfigurationError when there is no connection.
    """
    with _connect(dsn) as conn:
        context = Context(dsn, conn, thresholds or Thresholds())
        for check in CHECKS:
            if (quick and check.reads_everything) or only not in (None, check.name):
                continue
            if check.only_on not in (None, context.part):
                continue
            if on_check is not None:
                on_check(check)
            yield from _look(context, check)


def repair(dsn: str, finding: Finding) -> None:
    """Run the safe repairs of a finding, each in a transaction of its own.

    Raises FareboxError: what the server said to the first that failed; those before it stand.
    """
    with _connect(dsn) as conn:
        for statement in finding.repairs:
            try:
                if statement.startswith("alter "):
                    # Whoever waits for a table makes all who sell wait behind.
                    with conn.transaction():
                        milliseconds = round(_LOCK_PATIENCE.total_seconds() * 1000)
                        conn.execute("select set_config('lock_timeout', %s, true)", [str(milliseconds)])
                        conn.execute(statement.encode(), prepare=False)
                else:
                    conn.execute(statement.encode(), prepare=False)
            except psycopg.Error as error:
                raise map_error(error) from None


def _connect(dsn: str) -> psycopg.Connection[Any]:
    try:
        conn = psycopg.connect(Target(dsn).conninfo, autocommit=True, application_name="farebox doctor")
    except psycopg.Error as error:
        raise map_error(error) from None
    conn.prepare_threshold = None
    return conn


def _look(context: Context, check: Check) -> list[Finding]:
    try:
        if check.needs_schema and not context.is_current:
            # The check of the migrations has said so already.
            return []
        # For this transaction only: what is set for a session would stay behind in a pooler.
        with context.patience(_LOCK_PATIENCE, setting="lock_timeout"), context.patience(_PATIENCE):
            findings = list(check.look(context))
    except psycopg.errors.LockNotAvailable:
        return [_not_checked(check, "somebody has locked what it looks at", "see the check `locks`")]
    except psycopg.errors.QueryCanceled:
        return [_not_checked(check, "it took too long", "farebox verify" if check.reads_everything else None)]
    except psycopg.errors.InsufficientPrivilege:
        rights = f"grant pg_monitor to {context.user}; grant farebox_admin to {context.user};"
        return [_not_checked(check, f"the login {context.user} may not look", rights)]
    except psycopg.Error as error:
        raise map_error(error) from None
    except FareboxError as error:
        return [_not_checked(check, str(error.args[0]), error.hint)]
    return findings or [Finding(check.name, Level.OK, check.good, check.why)]


def _not_checked(check: Check, because: str, fix: str | None) -> Finding:
    return Finding(check.name, Level.WARNING, f"could not be checked: {because}", check.why, fix)
