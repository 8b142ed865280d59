"""The model of the core's tests, against a router: companies on three shards, one payment after the other."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import datetime

import psycopg

from tests.core.support import stop_the_clock
from tests.core.test_sequential_meaning import Batches, World, run_batches
from tests.shards.support import RoutedDatabase

_ELEMENTS_AT_LEAST = 150


def test_batches_mean_their_elements_one_after_the_other(db: RoutedDatabase) -> None:
    db.accept_rows()
    stop_the_clock(db, datetime.now().astimezone())
    with ExitStack() as stack:
        Batches.conn = stack.enter_context(db.connect(autocommit=True))
        shards = [
            stack.enter_context(psycopg.connect(db.sharded.shard_dsn(name), autocommit=True))
            for name in db.sharded.names
        ]

        def set_clock(now: datetime) -> None:
            for shard in shards:
                shard.execute("update public.the_clock set now = %s", [now])

        Batches.world = World(
            db.sharded.empty,
            set_clock,
            lambda company, payment: db.sharded.shard_of(payment if company is None else company),
        )
        run_batches(_ELEMENTS_AT_LEAST, examples=2, shrink=False)
