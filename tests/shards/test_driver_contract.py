# pyright: reportUnusedImport=false
# ruff: noqa: F401 - fixtures of the tests that run here
"""The driver's own suite, run against a router as it stands: all but what is named here, with a reason."""

from __future__ import annotations

from collections.abc import Iterator
from inspect import unwrap
from types import ModuleType

import pytest

from farebox import AsyncFarebox, Farebox
from tests.driver import (
    test_calls,
    test_catalog_cache,
    test_faults,
    test_guide,
    test_memory,
    test_pooler,
    test_privacy,
    test_processes,
    test_sharing,
)
from tests.driver.conftest import Call, Shop
from tests.driver.conftest import connect as either
from tests.driver.test_catalog_cache import asked
from tests.driver.test_faults import proxy
from tests.driver.test_guide import example
from tests.driver.test_pooler import pooler
from tests.driver.test_privacy import everything
from tests.shards.contract import ELSEWHERE, INSIDE, Reason, suite
from tests.shards.support import SHARDS, RoutedDatabase, Sharded
from tests.support.servers import Farm

_TWICE = Reason("the router itself asks a shard that raises this once more: twice as many attempts")
_CLIENT = Reason("it is about what happens in the client: before anything is asked, or after it was answered")
_BEFORE = Reason("it is about the client and the pooler, whatever database is behind that")
_LEFT_OUT: dict[ModuleType, dict[str, Reason]] = {
    test_calls: {
        "test_a_database_without_farebox_says_what_to_do": ELSEWHERE,
        "test_a_resolved_payment_without_a_reason_is_listed": INSIDE,
        "test_both_clients_have_the_same_methods": ELSEWHERE,
    },
    test_catalog_cache: {
        "test_notifications_of_the_whole_catalog_drop_everything": INSIDE,
    },
    test_faults: {
        "test_a_client_closed_while_it_connects_leaves_nothing_half_open": ELSEWHERE,
        "test_a_server_killed_and_restarted_under_load_answers_everybody_async": Reason(
            "test_lost_shards kills one of the servers"
        ),
        "test_a_server_killed_and_restarted_under_load_answers_everybody_sync": Reason(
            "test_lost_shards kills one of the servers"
        ),
        "test_a_refused_connection_is_tried_three_times_and_then_told": ELSEWHERE,
        "test_the_deadline_ends_a_call_that_nobody_answers": _CLIENT,
        "test_sessions_ended_by_the_administrator_are_replaced": Reason(
            "what the shards were asked goes on without the router's session: the retry finds its ticket"
        ),
        "test_transient_errors_are_retried_as_often_as_told": _TWICE,
        "test_after_the_last_attempt_the_error_is_raised": _TWICE,
    },
    test_guide: {"test_all_examples_are_tested": ELSEWHERE},
    test_memory: dict.fromkeys(
        (
            "test_callers_without_a_place_cost_the_client_next_to_nothing",
            "test_one_who_waits_long_does_not_keep_those_who_came_later",
            "test_what_is_answered_is_gone_without_looking_for_cycles",
        ),
        _CLIENT,
    ),
    test_pooler: {
        "test_prepared_statements_survive_a_migration_of_what_they_return": INSIDE,
        "test_prepared_statements_forced_on_a_pooler_without_them_do_no_harm": _BEFORE,
        "test_ten_thousand_callers_through_the_pooler": _BEFORE,
        "test_a_pooler_is_sent_one_statement_at_a_time": _BEFORE,
        "test_clients_with_more_connections_than_the_pool_take_turns": _BEFORE,
        "test_a_pooler_that_is_full_is_transient": _BEFORE,
    },
    test_privacy: {"test_the_servers_log_names_nobody": Reason("below, on servers of its own")},
    test_processes: {
        "test_tls_settings_pass_through_and_long_answers_arrive_whole": ELSEWHERE,
        "test_a_forked_child_makes_its_own_connections_and_leaves_the_parents_alone": _CLIENT,
        "test_a_dropped_client_ends_its_thread": _CLIENT,
    },
    test_sharing: dict.fromkeys(
        (
            "test_ten_thousand_callers_need_four_connections_and_full_batches",
            "test_neither_does_one_whose_callers_were_cancelled",
            "test_five_times_as_many_callers_than_places_all_get_in_and_the_queue_stays_short",
            "test_threads_share_batches_too",
            "test_a_full_queue_raises_at_once_if_told_so",
            "test_a_full_queue_makes_callers_wait_in_order_and_counts_no_one_twice",
            "test_single_calls_are_not_starved_by_a_long_list",
            "test_a_stream_takes_only_as_much_as_it_has_under_way",
            "test_closing_fails_what_was_not_sent_and_waits_for_what_was",
            "test_closing_reads_what_has_been_answered",
            "test_a_closed_sync_client_says_so_and_leaves_no_thread",
            "test_one_client_serves_one_event_loop_after_the_other_but_not_two_at_once",
            "test_the_times_of_an_event_are_seconds_and_add_up",
            "test_answers_that_come_while_callers_still_queue_up_are_kept_for_the_loops_turn",
        ),
        _CLIENT,
    ),
}
for _module, _left_out in _LEFT_OUT.items():
    globals().update(suite(_module, _left_out))


class RoutedShop(Shop):
    """Its tables are on its company's shard."""

    db: RoutedDatabase

    @property
    def tables_dsn(self) -> str:
        sharded = self.db.sharded
        return sharded.shard_dsn(SHARDS[sharded.shard_of(self.company) - 1])

    @classmethod
    def opened(cls, db: RoutedDatabase) -> RoutedShop:
        """A new company and its route."""
        company = db.company()
        return cls(db, company, db.route(company))

    def restore(self) -> None:
        """Takes away what tests have put into the tables."""
        self.on_tables("drop function if exists public.fail cascade")
        self.on_tables("drop sequence if exists public.failures")
        self.on_tables("alter table farebox.tickets drop constraint if exists unlucky")


@pytest.fixture
def shop(db: RoutedDatabase) -> Iterator[Shop]:
    shop = RoutedShop.opened(db)
    yield shop
    shop.restore()


def test_the_servers_log_names_nobody(farm: Farm, sharded_server: Sharded, connect: Call) -> None:
    """Of a server with a router and its shards: requests reach the shards as bound parameters."""
    with farm.private(sharded_server.server.name) as server:
        sharded = Sharded(server)
        db = RoutedDatabase(sharded)
        test_privacy.assert_the_servers_log_names_nobody(RoutedShop.opened(db), connect)
        db.disconnect()
        sharded.close()


@pytest.fixture(params=[AsyncFarebox], ids=["async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Call]:
    """One of the two clients: what they do alike to a database they do alike to a router."""
    yield from unwrap(either)(request)


@pytest.fixture(autouse=True)
def administrators_use_the_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody changes a router's tables."""

    def rename(shop: Shop, name: str) -> None:
        with Farebox(shop.dsn) as farebox:
            farebox.upsert_companies([{"id": shop.company, "name": name}])

    monkeypatch.setattr(test_catalog_cache, "rename", rename)
