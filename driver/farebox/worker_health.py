"""How a worker tells process managers that it is well: a report, a file, a page on 127.0.0.1."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

COUNTS: Final = ("taken", "created", "duplicates", "conflicts", "rejected", "retried", "dead")

log: Final = logging.getLogger("farebox.worker")

_FILE_EVERY_SECONDS: Final = 1.0


@dataclass(slots=True)
class Health:
    """The report; times are seconds since the epoch.

    `alive` is false when the database has not answered for longer than `patience` seconds. `totals` counts
    as `BatchCounts` does, since the start.
    """

    patience: float
    state: str = "starting"
    listening: bool = False
    connections: int = 0
    started_at: float = field(default_factory=time.time)
    answered_at: float = field(default_factory=time.time)
    last_error: str | None = None
    totals: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))

    @property
    def alive(self) -> bool:
        """Whether the database has answered lately."""
        return self.state != "stopped" and time.time() - self.answered_at <= self.patience

    def as_json(self) -> str:
        """The report as one line of JSON."""
        report: dict[str, Any] = {"alive": self.alive, "state": self.state, "listening": self.listening}
        report |= {"connections": self.connections, "last_error": self.last_error}
        report |= {"started_at": self.started_at, "answered_at": self.answered_at, "pid": os.getpid()}
        return json.dumps(report | self.totals)


class HealthFile:
    """A file that holds the report, rewritten about once a second while the worker is well.

    So it is well if the file is younger than a few seconds; it is removed when the worker is not.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written_at = 0.0

    def update(self, health: Health) -> None:
        """Write or remove the file. A disk that is full, say, is logged, and stops no worker."""
        try:
            if not health.alive:
                self._path.unlink(missing_ok=True)
            elif time.monotonic() - self._written_at >= _FILE_EVERY_SECONDS:
                self._written_at = time.monotonic()
                draft = self._path.with_name(f".{self._path.name}.{os.getpid()}")
                draft.write_text(health.as_json() + "\n")
                draft.replace(self._path)
        except OSError as error:
            log.warning("the health file cannot be written: %s", error)


async def serve_health(health: Health, port: int) -> asyncio.Server:
    """Answer every HTTP request on 127.0.0.1 with the report: status 200 while it is alive, else 503."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(5):
                await reader.readuntil(b"\r\n")
                body = health.as_json().encode() + b"\n"
                status = b"200 OK" if health.alive else b"503 Service Unavailable"
                writer.write(
                    b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
                    b"Connection: close\r\n\r\n%b" % (status, len(body), body)
                )
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # Whoever asked has gone, or does not speak HTTP.
        finally:
            writer.close()

    return await asyncio.start_server(answer, "127.0.0.1", port)
