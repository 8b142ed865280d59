"""Through a real PgBouncer that knows prepared statements (1.21 and later), in transaction mode."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator

import psycopg
import pytest

from farebox import AsyncFarebox
from farebox.events import BatchEvent, Event
from farebox.options import Options
from tests.driver.conftest import Call, Shop
from tests.driver.pooler import pooled
from tests.support.servers import Farm


@pytest.fixture
def pooler(farm: Farm, shop: Shop) -> Iterator[str]:
    with pooled(farm, shop.dsn, newer=True, pool_size=3, max_prepared_statements=50) as dsn:
        yield dsn


def test_everything_works_with_prepared_statements_and_pipelines(
    shop: Shop, pooler: str, connect: Call
) -> None:
    client = connect(pooler, prepared_statements=True, pooled_pipeline=4)
    payments = shop.payments(500)
    assert len(client("create_tickets", payments, chunk_size=20).successful) == 500
    assert client("create_ticket", payments[0]).outcome == "duplicate"
    assert client("company_summary", shop.company).tickets == 500
    assert client("verify") == []


async def test_statements_stay_prepared_on_the_server(farm: Farm, shop: Shop) -> None:
    with pooled(farm, shop.dsn, newer=True, pool_size=1, max_prepared_statements=50) as dsn:
        async with (
            AsyncFarebox(dsn, prepared_statements=True) as one,
            AsyncFarebox(dsn, prepared_statements=True) as two,
        ):
            for farebox in (one, two, one):
                await farebox.create_tickets(shop.payments(100), chunk_size=10)
            with psycopg.connect(dsn, autocommit=True) as same_session:
                known = same_session.execute(
                    "select count(*), sum(generic_plans + custom_plans) from pg_prepared_statements"
                    " where statement like '%farebox.create_tickets(%'"
                ).fetchone()
        assert known == (1, 30)


@pytest.mark.parametrize("prepare", [True, False])
async def test_ten_thousand_callers_pipelined_through_the_pooler(
    shop: Shop, pooler: str, prepare: bool
) -> None:
    events: list[Event] = []
    payments = shop.payments(10_000)
    options: Options = {"prepared_statements": prepare, "pooled_pipeline": 4, "on_event": events.append}
    async with AsyncFarebox(pooler, **options) as farebox:
        outcomes = await asyncio.gather(*(farebox.create_ticket(payment) for payment in payments))
    assert [o.monime_transaction_id for o in outcomes] == [p["monime_transaction_id"] for p in payments]
    assert Counter(outcome.outcome for outcome in outcomes) == {"created": 10_000}
    assert not [event for event in events if isinstance(event, BatchEvent) and event.error]
    shop.assert_sound(10_000)
