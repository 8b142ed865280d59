"""A TCP proxy between driver and server that delays, cuts, hangs and refuses on command."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

T = TypeVar("T")

READY_FOR_QUERY = b"Z\x00\x00\x00\x05"
"""Ends the server's answer to a sync: by now the transaction is committed, or not."""


class Proxy:
    """Listens on a free local port and passes bytes on to `host`:`port`, in a thread of its own.

    `delay` is seconds each way, for whole streams: what is sent back to back arrives back to back.
    """

    def __init__(self, host: str, port: int, *, delay: float = 0.0) -> None:
        self.upstream = (host, port)
        self.delay = delay
        self.accepted = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._flowing: asyncio.Event | None = None
        self._to_drop = (0, b"")
        self._dropped = threading.Event()
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port: int = probe.getsockname()[1]

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()
        self._do(self._listen())

    def close(self) -> None:
        """Cut everything and stop."""
        self._do(self._shut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def dsn(self, dsn: str) -> str:
        """The same URI through this proxy."""
        parts = urlsplit(dsn)
        login = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
        return urlunsplit(parts._replace(netloc=f"{login}127.0.0.1:{self.port}"))

    def cut(self) -> None:
        """Reset all connections."""
        self._call(self._cut)

    def drop_answers(self, count: int = 1, *, with_text: bytes = b"") -> None:
        """Swallow the next `count` answers with this text in them, once complete; reset their connections.

        What they answer is committed by then. `wait_for_dropped_answer` returns after the first one.
        """
        self._dropped.clear()
        self._call(lambda: setattr(self, "_to_drop", (count, with_text)))

    def wait_for_dropped_answer(self) -> None:
        """Returns when an answer was swallowed."""
        assert self._dropped.wait(60), "no answer came"

    def hang(self) -> None:
        """Pass nothing on any more, in either direction, and say nothing."""
        self._call(self._event().clear)

    def go_on(self) -> None:
        """Pass everything on again."""
        self._call(self._event().set)

    def refuse(self) -> None:
        """Refuse new connections and cut those there are."""
        self._do(self._stop_listening())
        self.cut()

    def accept(self) -> None:
        """Accept connections again, on the same port."""
        self._do(self._listen())

    # -- inside -------------------------------------------------------------------------------------------

    def _event(self) -> asyncio.Event:
        assert self._flowing is not None
        return self._flowing

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def _call(self, work: Callable[[], object]) -> None:
        async def call() -> None:
            work()

        self._do(call())

    async def _listen(self) -> None:
        if self._flowing is None:
            self._flowing = asyncio.Event()
            self._flowing.set()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, backlog=1024)

    async def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _shut(self) -> None:
        await self._stop_listening()
        self._event().set()
        self._cut()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _cut(self) -> None:
        for link in list(self._links):
            link.reset()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            up_reader, up_writer = await asyncio.open_connection(*self.upstream)
        except OSError:
            writer.transport.abort()
            return
        link = _Link(writer, up_writer)
        self._links.add(link)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pass_on(link, reader, up_writer, answers=False))
                tasks.create_task(self._pass_on(link, up_reader, writer, answers=True))
        except* (OSError, asyncio.CancelledError):
            pass  # Cut, or the test is over; asyncio would report the latter as an error of its own.
        finally:
            self._links.discard(link)
            link.reset()

    async def _pass_on(
        self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool
    ) -> None:
        loop = asyncio.get_running_loop()
        chunks: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def receive() -> None:
            while data := await reader.read(65536):
                chunks.put_nowait((loop.time() + self.delay, data))
            chunks.put_nowait((loop.time() + self.delay, b""))

        receiver = asyncio.create_task(receive())
        held = b""
        started = False  # whether the session's start-up is over
        try:
            while True:
                due, data = await chunks.get()
                if due > loop.time():
                    await asyncio.sleep(due - loop.time())
                await self._event().wait()
                if not data:
                    if writer.can_write_eof():
                        writer.write_eof()
                    return
                held += data
                if answers and self._to_drop[0] and started:
                    if READY_FOR_QUERY not in held:
                        continue
                    count, text = self._to_drop
                    if text in held:
                        self._to_drop = (count - 1, text)
                        self._dropped.set()
                        link.reset()
                        return
                started = started or READY_FOR_QUERY in held
                writer.write(held)
                held = b""
                await writer.drain()
        finally:
            receiver.cancel()
            await asyncio.gather(receiver, return_exceptions=True)


class _Link:
    """A connection of the client and the one it became."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self._writers = (client, server)

    def reset(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


@contextlib.contextmanager
def proxy_to(dsn: str, *, delay: float = 0.0) -> Generator[Proxy]:
    """A proxy in front of the server of that URI."""
    parts = urlsplit(dsn)
    assert parts.hostname is not None
    proxy = Proxy(parts.hostname, parts.port or 5432, delay=delay)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.close()
