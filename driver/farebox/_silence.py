"""Servers and networks that fall silent: no answer, no reset, and all that is sent is confirmed."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import psycopg

from farebox._dsn import Target
from farebox._wire import connect

SILENCE_SECONDS: Final = 15.0


@asynccontextmanager
async def watched(connection: psycopg.AsyncConnection[Any], target: Target) -> AsyncGenerator[None]:
    """What is awaited in here fails as on a lost connection when the server does not answer others either.

    A batch may take long, so time alone proves nothing: after `SILENCE_SECONDS`, and again and again, the
    server is asked for another connection. TCP keepalives do not notice a stopped server or proxy.
    """
    watch = asyncio.create_task(_watch(connection, target, SILENCE_SECONDS))
    try:
        yield
    finally:
        watch.cancel()


async def _watch(connection: psycopg.AsyncConnection[Any], target: Target, seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        if not await _answers(target, seconds):
            _cut(connection)
            return


async def _answers(target: Target, seconds: float) -> bool:
    """Whether the server says anything to a newcomer, be it no."""
    try:
        async with asyncio.timeout(seconds):
            connection = await connect(target)
    except (TimeoutError, psycopg.errors.ConnectionTimeout):
        return False
    except psycopg.Error:
        return True
    await connection.close()
    return True


def _cut(connection: psycopg.AsyncConnection[Any]) -> None:
    # To cancel whoever waits would not do: psycopg then waits for the server to confirm it.
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as end:
        end.shutdown(socket.SHUT_RDWR)
