# pyright: reportUnusedImport=false
# ruff: noqa: F401 - the tests that are imported run here, against the router that this folder's ``db`` is
"""What the core promises of one database, asked of a router as it stands: the very same test functions.

Left out, because they take the database apart and a router has nothing inside: tests that break or lock
tables and functions (``test_records``: the same code runs on the shards), that set a session's clock (the
model of ``test_sequential_meaning``, ``test_attempts_are_counted_…``: a router asks its shards' clocks), and
that wait for a session that waits for a lock (on a router it waits for a shard: races have tests of their
own in ``test_registry`` and ``test_lost_shards``). Of the fuzz test one role is run, for its time;
``farebox_app`` and ``farebox_admin`` were run by hand.
"""

import psycopg
import pytest

from tests.core import test_fuzz
from tests.core.support import Connection, Shop, create
from tests.core.test_concurrency_payments import (
    test_of_many_callers_at_once_one_creates,
    test_two_who_apply_kept_payments_at_once_create_each_once,
)
from tests.core.test_outcomes import (
    test_a_batch_has_at_most_10_000_elements,
    test_a_json_number_is_no_id,
    test_a_later_payment_has_a_later_ticket_id,
    test_a_payment_becomes_a_ticket_once,
    test_a_retry_gets_its_ticket_whatever_has_happened_since,
    test_a_spent_code_reads_exhausted_and_a_late_one_expired,
    test_an_empty_batch_has_no_rows,
    test_another_companys_payment_is_unavailable_and_nothing_else_is_told,
    test_commission_is_rounded_half_away_from_zero,
    test_inside_a_batch_the_lowest_ordinals_get_the_last_uses,
    test_of_several_faults_the_first_of_the_contract_is_told,
    test_what_differs_is_told_in_order_and_the_rate_never_is,
    test_what_is_no_array_is_misuse,
)
from tests.core.test_records import (
    test_many_who_repair_and_replay_at_once_write_each_record_once,
    test_the_repair_writes_so_many_and_no_more,
)
from tests.core.test_unapplied import (
    test_a_limit_out_of_range_is_misuse,
    test_a_masked_redelivery_does_not_erase_the_good_request,
    test_another_companys_success_resolves_the_payment_and_tells_neither_of_the_other,
    test_every_rejected_payment_with_an_id_is_kept,
    test_kept_payments_are_applied_once_their_cause_is_gone,
    test_what_is_no_rejected_payment_is_not_kept,
)
from tests.shards.support import RoutedDatabase


@pytest.fixture
def shop(db: RoutedDatabase) -> Shop:
    return Shop(db)


@pytest.fixture
def conn(db: RoutedDatabase) -> Connection:
    return db.connect(autocommit=True)


def test_no_argument_of_a_workers_function_raises_what_is_not_announced(db: RoutedDatabase) -> None:
    test_fuzz.test_no_argument_of_any_function_raises_what_is_not_announced(db, "farebox_worker")


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_a_strict_isolation_level_is_refused(db: RoutedDatabase, shop: Shop, level: str) -> None:
    conn = db.connect(autocommit=True)
    conn.execute(f"begin isolation level {level}".encode())
    with pytest.raises(psycopg.Error, match="does not offer") as raised:
        create(conn, *shop.payments(1))
    assert raised.value.sqlstate == "TK005"
