"""Servers of the migration tests' own: these tests make and drop roles, which belong to a whole server."""

import contextlib
from collections.abc import Callable, Iterator

import pytest

from tests.migrations.lab import Lab
from tests.support.servers import VERSIONS, Farm, NotAvailableError, Server

_NOT_DURABLE: dict[str, str | int] = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


@pytest.fixture(scope="session")
def lab_server(farm: Farm) -> Iterator[Callable[[str], Server]]:
    """This worker's server of a version, started when first asked for."""
    running: dict[str, Server] = {}
    with contextlib.ExitStack() as stack:

        def server(version: str) -> Server:
            if version not in running:
                running[version] = stack.enter_context(farm.private(version, **_NOT_DURABLE))
            return running[version]

        yield server


@pytest.fixture(params=VERSIONS)
def lab(request: pytest.FixtureRequest, lab_server: Callable[[str], Server]) -> Iterator[Lab]:
    """A server without databases and roles of anybody else."""
    try:
        lab = Lab(lab_server(request.param))
    except NotAvailableError as reason:
        pytest.skip(str(reason))
    yield lab
    lab.clean()
