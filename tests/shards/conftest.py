"""``db`` here is a router: what the core promises of one database is asked of it as it stands."""

from collections.abc import Iterator

import pytest

from tests.shards.support import RoutedDatabase, Sharded
from tests.support.servers import Farm, NotAvailableError


@pytest.fixture(scope="session")
def sharded_server(farm: Farm) -> Iterator[Sharded]:
    """One router with three shards a worker."""
    try:
        server = farm.shared("pg15")
    except NotAvailableError as reason:
        pytest.skip(str(reason))
    with server.connect() as conn:
        if not conn.execute("select from pg_available_extensions where name = 'plproxy'").rowcount:
            pytest.skip("PL/Proxy is not installed (Debian: postgresql-15-plproxy)")
    sharded = Sharded(server)
    RoutedDatabase(sharded).show_tables()
    yield sharded
    sharded.drop()


@pytest.fixture
def sharded(sharded_server: Sharded) -> Iterator[Sharded]:
    """A router with three shards, empty."""
    yield sharded_server
    sharded_server.clean()


@pytest.fixture
def db(sharded_server: Sharded) -> Iterator[RoutedDatabase]:
    """The router, as a database for tests."""
    database = RoutedDatabase(sharded_server)
    yield database
    database.close()
