from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

class Connection:
    def transaction(self) -> AbstractAsyncContextManager[None]: ...
    async def fetch(self, query: str, *args: object) -> list[Any]: ...
    async def executemany(self, command: str, args: Iterable[Sequence[object]]) -> None: ...
    async def close(self) -> None: ...

class Pool:
    async def fetch(self, query: str, *args: object) -> list[Any]: ...

async def connect(
    *,
    host: object = ...,
    port: object = ...,
    user: object = ...,
    password: object = ...,
    database: object = ...,
) -> Connection: ...
async def create_pool(
    *,
    host: object = ...,
    port: object = ...,
    user: object = ...,
    password: object = ...,
    database: object = ...,
    min_size: int = 10,
    max_size: int = 10,
) -> Pool: ...
