"""plpgsql_check finds nothing in any PL/pgSQL function: unknown columns, dead variables, injection, casts."""

import pytest

from tests.support.database import Database

# Findings that are wrong here, and why.
_ACCEPTED = {
    # A stable function keeps the snapshot of its caller: after a wait for a lock it would not see what the
    # other session has committed.
    "routine is marked as VOLATILE, should be STABLE",
}


@pytest.mark.parametrize("server", ["pg15"], indirect=True)
def test_no_function_has_a_warning(tap_db: Database) -> None:
    functions = tap_db.execute(
        "select p.oid, p.oid::regprocedure::text, coalesce(t.tgrelid, 0)"
        " from pg_catalog.pg_proc p"
        " join pg_catalog.pg_language l on l.oid = p.prolang and l.lanname = 'plpgsql'"
        " left join pg_catalog.pg_trigger t on t.tgfoid = p.oid"
        " where p.pronamespace = 'farebox'::regnamespace"
        " order by 2"
    )
    assert functions
    findings = [
        (name, *finding)
        for oid, name, relation in functions
        for finding in tap_db.execute(
            "select lineno, level, message, detail, statement"
            " from plpgsql_check_function_tb(%s::oid, %s::oid, fatal_errors => false, all_warnings => true)"
            " where message <> all(%s)",
            [oid, relation, list(_ACCEPTED)],
        )
    ]
    assert not findings, "\n".join(map(str, findings))
