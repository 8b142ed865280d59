from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, Self, TypeVar

import psycopg

C = TypeVar("C", bound=psycopg.AsyncConnection[Any])

class AsyncConnectionPool(Generic[C]):
    def __init__(
        self, conninfo: str, *, min_size: int, max_size: int, open: bool, kwargs: Mapping[str, object]
    ) -> None: ...
    def connection(self) -> AbstractAsyncContextManager[C]: ...
    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *_: object) -> None: ...
