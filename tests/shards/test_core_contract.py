# pyright: reportUnusedImport=false
# ruff: noqa: F401, F811 - a fixture of the tests that run here
"""What the core promises of one database, asked of a router as it stands: all but what is named here."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.core import (
    test_concurrency_codes,
    test_concurrency_payments,
    test_deadlocks,
    test_encodings,
    test_fuzz,
    test_outcomes,
    test_records,
    test_security_catalog,
    test_security_logins,
    test_unapplied,
)
from tests.core.support import Connection, Shop, create
from tests.core.test_security_logins import shops
from tests.shards.contract import INSIDE, OPEN_TRANSACTION, OWN_ROWS, Reason, suite
from tests.shards.support import RoutedDatabase

_ROUTERS_OWN = Reason("test_setup compares the rights of a router's functions with those of a database")
_LEFT_OUT: dict[Any, dict[str, Reason]] = {
    test_concurrency_codes: dict.fromkeys(
        (
            "test_a_code_with_far_more_takers_gives_exactly_its_limit",
            "test_a_use_set_free_by_a_lost_ticket_goes_to_the_next",
            "test_uses_move_on_as_often_as_tickets_are_lost",
            "test_a_lost_ticket_also_gives_way_to_the_same_payment_with_another_code",
            "test_a_retry_whose_code_was_spent_while_it_waited_is_a_duplicate",
            "test_a_payment_waits_for_a_change_of_its_code",
            "test_a_change_of_a_code_waits_for_payments",
            "test_uses_are_given_out_anew_also_when_a_payment_without_a_code_is_lost",
            "test_the_last_uses_go_by_the_limit_of_the_moment",
            "test_who_waits_for_a_ticket_keeps_nobody_from_its_code",
            "test_a_code_whose_time_ends_while_a_payment_waits_is_expired",
            "test_no_ticket_is_younger_than_the_end_of_its_code",
            "test_the_sweep_does_not_wait_for_payments",
            "test_limits_that_go_up_and_down_under_load_are_kept",
        ),
        OPEN_TRANSACTION,
    ),
    test_concurrency_payments: dict.fromkeys(
        (
            "test_the_others_wait_for_how_the_first_ends",
            "test_each_of_those_who_wait_may_fail_in_turn",
            "test_who_asks_otherwise_for_a_payment_on_its_way_gets_the_truth",
            "test_a_rejection_kept_while_the_payment_waits_is_resolved_by_its_success",
            "test_a_payment_being_applied_is_created_once_by_its_redelivery",
            "test_a_rejection_that_waits_for_the_success_does_not_reopen_the_payment",
        ),
        OPEN_TRANSACTION,
    ),
    test_deadlocks: {},
    test_encodings: {},
    test_fuzz: {
        "test_no_argument_of_any_function_raises_what_is_not_announced": Reason(
            "for its time only one role of it, below; the others were run by hand"
        ),
    },
    test_outcomes: {},
    test_records: {
        "test_a_record_that_cannot_be_written_costs_no_ticket": INSIDE,
        "test_a_locked_table_of_records_costs_no_ticket": INSIDE,
        "test_what_can_never_be_repaired_does_not_stand_in_the_way": INSIDE,
        "test_two_who_repair_at_once_write_each_record_once": OPEN_TRANSACTION,
        "test_a_replay_waits_for_the_repair_in_hand": OPEN_TRANSACTION,
    },
    test_security_catalog: {
        "test_each_role_may_execute_what_it_is_for_and_nothing_else": _ROUTERS_OWN,
        "test_each_role_touches_the_tables_it_is_for_and_no_others": OWN_ROWS,
    },
    test_security_logins: {
        "test_a_bound_login_sees_its_own_company_whatever_it_sets": OWN_ROWS,
        "test_an_unbound_login_sees_the_company_that_is_set_and_nothing_when_none_is": OWN_ROWS,
        "test_a_prepared_statement_follows_the_setting": OWN_ROWS,
        "test_a_bound_login_cannot_change_who_it_is": OWN_ROWS,
        "test_a_login_that_may_act_as_another_still_sees_its_own_company": OWN_ROWS,
        "test_a_cheap_function_does_not_see_others_rows_before_the_policy": OWN_ROWS,
        "test_the_request_of_one_company_is_not_told_to_another": OWN_ROWS,
        "test_planted_objects_are_not_found_when_a_company_reads": OWN_ROWS,
        "test_no_setting_of_the_caller_changes_what_a_call_means": Reason("for its time one by one, below"),
    },
    test_unapplied: {},
}
for _module, _left_out in _LEFT_OUT.items():
    globals().update(suite(_module, _left_out))


@pytest.fixture
def shop(db: RoutedDatabase) -> Shop:
    return Shop(db)


@pytest.fixture
def rounds() -> int:
    """Of the tests against deadlocks; each has some ten calls of several shards."""
    return 10


@pytest.fixture
def depth_step() -> int:
    """Every fifth: a function that stands higher on the stack than the others does so by more levels."""
    return 5


@pytest.fixture
def conn(db: RoutedDatabase) -> Connection:
    return db.connect(autocommit=True)


def test_no_argument_of_a_workers_function_raises_what_is_not_announced(db: RoutedDatabase) -> None:
    test_fuzz.test_no_argument_of_any_function_raises_what_is_not_announced(db, "farebox_worker")


def test_no_setting_of_the_callers_changes_what_a_call_means(db: RoutedDatabase, shops: list[Shop]) -> None:
    test = test_security_logins.test_no_setting_of_the_caller_changes_what_a_call_means
    [settings] = [mark.args[1] for mark in getattr(test, "pytestmark")]  # noqa: B009 - unknown to type checkers
    assert len(settings) > 10
    for setting in settings:
        test(db, shops, setting)
        db.sharded.on_all("truncate farebox.payment_codes cascade")


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_a_strict_isolation_level_is_refused(db: RoutedDatabase, shop: Shop, level: str) -> None:
    conn = db.connect(autocommit=True)
    conn.execute(f"begin isolation level {level}".encode())
    with pytest.raises(psycopg.Error, match="does not offer") as raised:
        create(conn, *shop.payments(1))
    assert raised.value.sqlstate == "TK005"
