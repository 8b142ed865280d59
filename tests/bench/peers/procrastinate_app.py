"""The app of procrastinate, for producers and workers."""

# The packages are not Farebox's (requirements.txt); tests/typings has what is used of them.
# pyright: reportMissingModuleSource=false

from typing import Any

import procrastinate
from psycopg_pool import AsyncConnectionPool

_CREATE_ONE = "select outcome from farebox.create_ticket(%s)"


def make(dsn: str, *, jobs: bool = False) -> tuple[procrastinate.App, AsyncConnectionPool[Any]]:
    """The app with its task ``create``, and the pool its jobs use (to be opened by workers)."""
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=dsn, max_size=10))
    pool: AsyncConnectionPool[Any] = AsyncConnectionPool(
        dsn, min_size=10 if jobs else 0, max_size=10, open=False, kwargs={"autocommit": True}
    )

    @app.task(name="create")
    async def create(payment: str) -> None:
        async with pool.connection() as conn:
            await conn.execute(_CREATE_ONE, [payment])

    return app, pool
