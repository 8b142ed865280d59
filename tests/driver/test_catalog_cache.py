"""Look-ups are cached, told about changes, and right within their time limit when nobody tells."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from farebox import AsyncFarebox, TransientError
from farebox.events import BatchEvent, ConnectionEvent, Event
from tests.driver.conftest import Call, Shop
from tests.driver.pooler import pooled
from tests.support.proxy import Proxy, proxy_to
from tests.support.servers import Farm


class Asked:
    """How often the database was asked for something of the catalog."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def take(self) -> list[str]:
        names = [event.function for event in self.events if isinstance(event, BatchEvent)]
        self.events.clear()
        return [name for name in names if name.startswith("get_")]


@pytest.fixture
def asked() -> Asked:
    return Asked()


async def listening(farebox: AsyncFarebox, *, expected: bool = True) -> None:
    """Returns when the client hears notifications, or (not `expected`) does not any more."""
    while catalog_of(farebox).listener.listening is not expected:
        await asyncio.sleep(0.001)


def catalog_of(farebox: AsyncFarebox) -> Any:
    core = farebox._core  # pyright: ignore[reportPrivateUsage]
    assert core is not None
    return core.catalog


def rename(shop: Shop, name: str) -> None:
    """Somebody else renames the company."""
    shop.db.execute("update farebox.companies set name = %s where id = %s", [name, shop.company])


async def until_known(farebox: AsyncFarebox, shop: Shop, name: str) -> None:
    """Returns when the change shows."""
    async with asyncio.timeout(60):
        while True:
            company = await farebox.get_company(shop.company)
            if company is not None and company.name == name:
                return
            await asyncio.sleep(0.001)


async def test_a_look_up_is_asked_once(shop: Shop, asked: Asked) -> None:
    code = shop.db.code(shop.company, 3)
    async with AsyncFarebox(shop.dsn, on_event=asked, catalog_ttl=3600) as farebox:
        await farebox.get_company(shop.company)
        await listening(farebox)
        asked.take()
        for _ in range(3):
            await farebox.get_company(shop.company)
            await farebox.get_route(shop.company, shop.route)
            await farebox.get_payment_code(shop.company, code)
        assert sorted(asked.take()) == ["get_company", "get_payment_code", "get_route"]
        await farebox.get_company(shop.company, fresh=True)
        assert asked.take() == ["get_company"]
        await asyncio.gather(*(farebox.get_payment_code(shop.company, "*none#") for _ in range(50)))
        assert asked.take() == ["get_payment_code"]
        await farebox.get_payment_code(shop.company, "*none#")
        assert asked.take() == ["get_payment_code"]


async def test_every_change_by_anybody_is_told(shop: Shop, asked: Asked) -> None:
    code = shop.db.code(shop.company, 3)
    async with (
        AsyncFarebox(shop.dsn, on_event=asked, catalog_ttl=3600) as farebox,
        AsyncFarebox(shop.dsn) as other,
    ):
        await farebox.get_company(shop.company)
        await listening(farebox)
        await other.upsert_companies([{"id": shop.company, "name": "Renamed"}])
        await until_known(farebox, shop, "Renamed")
        await farebox.get_route(shop.company, shop.route)
        await other.upsert_routes([{"id": shop.route, "company_id": shop.company, "status": "inactive"}])
        while (route := await farebox.get_route(shop.company, shop.route)) and route.status == "active":
            await asyncio.sleep(0.001)
        await farebox.get_payment_code(shop.company, code)
        await other.cancel_payment_codes([{"company_id": shop.company, "code": code}])
        while (known := await farebox.get_payment_code(shop.company, code)) and known.status == "active":
            await asyncio.sleep(0.001)
        # However its id is spelled. Seen to fail: what was kept under another spelling stayed.
        spelled: Any = str(shop.company).upper()
        await farebox.get_company(spelled)
        rename(shop, "Renamed by hand")
        await until_known(farebox, shop, "Renamed by hand")
        company = await farebox.get_company(spelled)
        assert company is not None
        assert company.name == "Renamed by hand"


async def test_one_companys_change_leaves_the_others_cached(shop: Shop, asked: Asked) -> None:
    other = shop.db.company()
    async with AsyncFarebox(shop.dsn, on_event=asked, catalog_ttl=3600) as farebox:
        await farebox.get_company(shop.company)
        await listening(farebox)
        await farebox.get_company(other)
        await farebox.get_company(shop.company)
        asked.take()
        rename(shop, "Renamed")
        await until_known(farebox, shop, "Renamed")
        assert asked.take() == ["get_company"]
        await farebox.get_company(other)
        assert asked.take() == []


async def test_selling_on_a_code_tells_nobody(shop: Shop) -> None:
    code = shop.db.code(shop.company, 2)
    listener = shop.db.connect(autocommit=True)
    listener.execute("listen farebox_catalog")
    async with AsyncFarebox(shop.dsn) as farebox:
        for _ in range(2):
            assert (await farebox.create_ticket(shop.payment(payment_code=code))).outcome == "created"
        assert (await farebox.create_ticket(shop.payment(payment_code=code))).reason == "code_exhausted"
    rename(shop, "Renamed")
    [notice] = listener.notifies(timeout=60, stop_after=1)
    assert notice.payload == str(shop.company)


async def test_the_own_changes_of_a_client_show_at_once(shop: Shop) -> None:
    async with AsyncFarebox(shop.dsn, catalog_ttl=3600) as farebox:
        await farebox.get_company(shop.company)
        await farebox.upsert_companies([{"id": shop.company, "name": "Renamed"}])
        company = await farebox.get_company(shop.company)
        assert company is not None
        assert company.name == "Renamed"


async def test_without_notifications_the_time_limit_does_it(shop: Shop, asked: Asked, farm: Farm) -> None:
    """Through a pooler nobody can listen. Seen to fail with entries that never expire."""
    with pooled(farm, shop.dsn) as dsn:
        async with AsyncFarebox(dsn, on_event=asked, catalog_ttl=0.05) as farebox:
            await farebox.get_company(shop.company)
            rename(shop, "Renamed")
            await until_known(farebox, shop, "Renamed")
            assert catalog_of(farebox).listener.listening is False
            await farebox.get_company(shop.company)
        async with AsyncFarebox(dsn, listen_dsn=shop.dsn, catalog_ttl=3600) as farebox:
            await farebox.get_company(shop.company)
            await listening(farebox)
            rename(shop, "Renamed again")
            await until_known(farebox, shop, "Renamed again")


@pytest.fixture
def proxy(shop: Shop) -> Iterator[Proxy]:
    with proxy_to(shop.dsn) as proxy:
        yield proxy


async def test_what_changed_while_the_listener_was_away_is_not_believed(shop: Shop, proxy: Proxy) -> None:
    """Seen to fail with a listener that believes what was cached before it came back."""
    events: list[Event] = []
    async with AsyncFarebox(
        shop.dsn, listen_dsn=proxy.dsn(shop.dsn), catalog_ttl=3600, backoff=0.001, on_event=events.append
    ) as farebox:
        await farebox.get_company(shop.company)
        await listening(farebox)
        await farebox.get_company(shop.company)
        await asyncio.to_thread(proxy.refuse)
        rename(shop, "Renamed meanwhile")
        await listening(farebox, expected=False)
        # Cached now, unheard of changes possible; dropped again as soon as there is somebody to hear them.
        await until_known(farebox, shop, "Renamed meanwhile")
        rename(shop, "Renamed once more")
        await asyncio.to_thread(proxy.accept)
        await until_known(farebox, shop, "Renamed once more")
        rename(shop, "And again")
        await until_known(farebox, shop, "And again")
    # Who counts connections arrives at none: the pool's, and the two that the listener has had.
    seen = Counter(event.what for event in events if isinstance(event, ConnectionEvent))
    assert seen["opened"] == seen["lost"] + seen["closed"] >= 3


async def test_an_answer_overtaken_by_a_change_is_not_kept(shop: Shop) -> None:
    """Seen to fail without the count of changes."""
    async with AsyncFarebox(shop.dsn, catalog_ttl=3600) as farebox:
        await farebox.get_company(shop.company)
        catalog = catalog_of(farebox)
        await listening(farebox)
        catalog.forget("*")
        reached, go_on = asyncio.Event(), asyncio.Event()

        async def slow() -> str:
            reached.set()
            await go_on.wait()
            return "from before"

        async def quick() -> str:
            return "from after"

        key = (str(shop.company), "x")
        first = asyncio.create_task(catalog.look_up(key, slow, fresh=False))
        await reached.wait()
        catalog.forget(str(shop.company))
        assert await catalog.look_up(key, quick, fresh=False) == "from after"
        go_on.set()
        assert await first == "from before"
        assert await catalog.look_up(key, slow, fresh=False) == "from after"
        # Nor one overtaken by a fresh look. Seen to fail with answers kept in the order of their arrival.
        catalog.forget("*")
        go_on.clear()
        first = asyncio.create_task(catalog.look_up(key, slow, fresh=False))
        await asyncio.sleep(0)
        assert await catalog.look_up(key, quick, fresh=True) == "from after"
        go_on.set()
        assert await first == "from before"
        assert await catalog.look_up(key, slow, fresh=False) == "from after"


async def test_a_cancelled_look_up_takes_nothing_from_the_others(shop: Shop, asked: Asked) -> None:
    async with AsyncFarebox(shop.dsn, on_event=asked, catalog_ttl=3600) as farebox:
        await farebox.get_company(shop.company)
        await listening(farebox)
        asked.take()
        tasks = [asyncio.create_task(farebox.get_route(shop.company, shop.route)) for _ in range(5)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        rest = await asyncio.gather(*tasks[1:])
        assert {route.id for route in rest if route is not None} == {shop.route}
        assert asked.take() == ["get_route"]


async def test_the_cache_has_a_size(shop: Shop, asked: Asked) -> None:
    others = [shop.db.company() for _ in range(3)]
    async with AsyncFarebox(shop.dsn, on_event=asked, catalog_ttl=3600, catalog_size=2) as farebox:
        await farebox.get_company(shop.company)
        await listening(farebox)
        for company in [shop.company, *others, shop.company]:
            await farebox.get_company(company)
        asked.take()
        await farebox.get_company(others[2])
        await farebox.get_company(shop.company)
        assert asked.take() == []
        await farebox.get_company(others[0])
        assert asked.take() == ["get_company"]


def test_both_clients_cache_and_can_be_told_not_to(shop: Shop, connect: Call) -> None:
    asked = Asked()
    client = connect(shop.dsn, on_event=asked, catalog_ttl=0)
    for _ in range(3):
        assert client("get_company", shop.company).id == shop.company
    assert asked.take() == ["get_company"] * 3


def test_a_failed_look_up_is_not_remembered(shop: Shop, proxy: Proxy, connect: Call) -> None:
    client = connect(proxy.dsn(shop.dsn))
    proxy.refuse()
    with pytest.raises(TransientError):
        client("get_company", shop.company)
    proxy.accept()
    assert client("get_company", shop.company).id == shop.company


async def test_notifications_of_the_whole_catalog_drop_everything(shop: Shop) -> None:
    async with AsyncFarebox(shop.dsn, catalog_ttl=3600) as farebox:
        await farebox.get_company(shop.company)
        await listening(farebox)
        await farebox.get_company(shop.company)
        with psycopg.connect(shop.dsn) as other:
            # Unannounced, then announced for all.
            other.execute("set local session_replication_role = replica")
            other.execute("update farebox.companies set name = 'Quiet' where id = %s", [shop.company])
            other.execute("notify farebox_catalog, '*'")
        await until_known(farebox, shop, "Quiet")
