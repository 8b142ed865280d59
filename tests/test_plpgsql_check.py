"""plpgsql_check finds nothing in any PL/pgSQL function: unknown columns, dead variables, injection, casts."""

import pytest

from tests.support.database import Database, Row
from tests.support.servers import NotAvailableError, add_extension

# Findings that are wrong here, and why.
_ACCEPTED = {
    # A stable function keeps the snapshot of its caller: after a wait for a lock it would not see what the
    # other session has committed.
    "routine is marked as VOLATILE, should be STABLE",
}


@pytest.mark.parametrize("server", ["pg15"], indirect=True)
def test_no_function_has_a_warning(db: Database) -> None:
    """A trigger function is checked for each of its triggers; a branch meant for another one is no fault."""
    with db.connect(autocommit=True) as conn:
        try:
            add_extension(conn, "plpgsql_check", "postgresql-15-plpgsql-check")
        except NotAvailableError as reason:
            pytest.skip(str(reason))
    uses = db.execute(
        "select p.oid::regprocedure::text, p.oid, coalesce(t.tgrelid, 0), t.tgoldtable, t.tgnewtable"
        " from pg_catalog.pg_proc p"
        " join pg_catalog.pg_language l on l.oid = p.prolang and l.lanname = 'plpgsql'"
        " left join pg_catalog.pg_trigger t on t.tgfoid = p.oid"
        " where p.pronamespace = 'farebox'::regnamespace"
    )
    assert uses
    findings: dict[str, set[Row]] = {}
    for name, *use in uses:
        found = {
            row
            for row in db.execute(
                "select lineno, level, message, detail, statement from plpgsql_check_function_tb("
                "%s::oid, %s::oid, oldtable => %s, newtable => %s,"
                " fatal_errors => false, all_warnings => true)",
                use,
            )
            if row[2] not in _ACCEPTED
        }
        findings[name] = findings[name] & found if name in findings else found
    report = "\n".join(f"{name}: {row}" for name, rows in findings.items() for row in rows)
    assert not report, report
