# pyright: reportUnusedImport=false
# ruff: noqa: F401, F811 - fixtures of the tests that run here
"""The driver's own suite, run against a router as it stands: all but what is named here, with a reason."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from farebox import Farebox
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
from tests.driver.conftest import Call, Shop, connect
from tests.driver.test_catalog_cache import asked
from tests.driver.test_faults import proxy
from tests.driver.test_guide import example
from tests.driver.test_pooler import pooler
from tests.driver.test_privacy import everything
from tests.shards.contract import ELSEWHERE, INSIDE, Reason, suite
from tests.shards.support import SHARDS, RoutedDatabase, Sharded
from tests.support.servers import Farm

_TWICE = Reason("the router itself asks a shard that raises this once more: twice as many attempts")
_LEFT_OUT = {
    test_calls: {
        "test_a_database_without_farebox_says_what_to_do": ELSEWHERE,
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
        "test_sessions_ended_by_the_administrator_are_replaced": Reason(
            "what the shards were asked goes on without the router's session: the retry finds its ticket"
        ),
        "test_transient_errors_are_retried_as_often_as_told": _TWICE,
        "test_after_the_last_attempt_the_error_is_raised": _TWICE,
    },
    test_guide: {"test_all_examples_are_tested": ELSEWHERE},
    test_memory: dict[str, Reason](),
    test_pooler: {"test_prepared_statements_survive_a_migration_of_what_they_return": INSIDE},
    test_privacy: {"test_the_servers_log_names_nobody": Reason("below, on servers of its own")},
    test_processes: {"test_tls_settings_pass_through_and_long_answers_arrive_whole": ELSEWHERE},
    test_sharing: dict[str, Reason](),
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


@pytest.fixture(autouse=True)
def administrators_use_the_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody changes a router's tables."""

    def rename(shop: Shop, name: str) -> None:
        with Farebox(shop.dsn) as farebox:
            farebox.upsert_companies([{"id": shop.company, "name": name}])

    monkeypatch.setattr(test_catalog_cache, "rename", rename)
