"""`farebox worker`: makes tickets of queued requests until it is told to stop."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Generator
from contextlib import AsyncExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import click

from farebox.cli.metrics import NO_CLIENT, read_address
from farebox.cli.session import Session, with_session
from farebox.events import Hook
from farebox.worker import Worker
from farebox.worker_health import HealthFile, serve_health

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class _JsonLines(logging.Formatter):
    """One JSON object a line: time, level, message, and the fields of the record."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {
            "time": time,
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        return json.dumps(line | getattr(record, "farebox", {}), default=str)


@click.command(short_help="Make tickets of queued requests until told to stop.")
@click.option(
    "--concurrency", type=click.IntRange(1, 64), default=2, show_default=True, help="Connections that work."
)
@click.option(
    "--batch-size", type=click.IntRange(1, 10_000), default=100, show_default=True, help="Requests at once."
)
@click.option(
    "--flush-ms",
    type=click.IntRange(10),
    default=500,
    show_default=True,
    help="Look for work at least this often, whether notifications come or not.",
)
@click.option("--listen-dsn", metavar="DSN", help="Where to listen, if --dsn is a pooler that cannot.")
@click.option("--once", is_flag=True, help="Process one batch, then end.")
@click.option("--drain", is_flag=True, help="Process until nothing is ready, then end; for cron.")
@click.option(
    "--health-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A file to rewrite about once a second while all is well.",
)
@click.option(
    "--health-port",
    type=click.IntRange(1, 65535),
    help="A port on 127.0.0.1 that answers HTTP 200 while all is well, else 503.",
)
@click.option(
    "--metrics",
    "address",
    metavar="HOST:PORT",
    callback=read_address,
    help="Serve what this worker counts at http://HOST:PORT/metrics. Needs farebox[metrics].",
)
@click.option(
    "--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True, help="To stderr."
)
@with_session
def worker(
    session: Session,
    concurrency: int,
    batch_size: int,
    flush_ms: int,
    listen_dsn: str | None,
    once: bool,
    drain: bool,
    health_file: Path | None,
    health_port: int | None,
    address: tuple[str, int] | None,
    log_format: Literal["text", "json"],
) -> None:
    """Make tickets of queued requests until told to stop.

    Run as many as you like, on as many machines. SIGTERM or Ctrl-C: finish the batch and end; a second one:
    end at once, which loses nothing.

    \b
    Examples:
      farebox worker
      farebox worker --concurrency 4 --health-port 9188 --metrics 127.0.0.1:9189
      farebox worker --drain                  by cron, where nothing may run all the time
    """
    if once and drain:
        raise click.UsageError("--once and --drain exclude each other")
    _log_to_stderr(log_format)
    file = HealthFile(health_file) if health_file else None

    async def main() -> None:
        async with AsyncExitStack() as stack:
            on_event = _ignore if address is None else stack.enter_context(_counted(*address))
            made = Worker(
                session.dsn,
                concurrency=concurrency,
                batch_size=batch_size,
                flush=flush_ms / 1000,
                listen_dsn=listen_dsn,
                on_change=file.update if file else _ignore,
                on_event=on_event,
            )
            if health_port is not None:
                await stack.enter_async_context(await serve_health(made.health, health_port))
            _stop_on_signals(made)
            if once:
                await made.drain(batch_size)
            elif drain:
                await made.drain()
            else:
                await made.run()
        if once or drain:
            totals = made.health.totals
            session.out.document(totals, ", ".join(f"{count} {key}" for key, count in totals.items()))

    asyncio.run(main())


def _ignore(_: object) -> None:
    pass


@contextmanager
def _counted(host: str, port: int) -> Generator[Hook]:
    """Count into a registry of its own, served there while the block runs."""
    try:
        from prometheus_client import CollectorRegistry

        from farebox.metrics import DriverMetrics
        from farebox.monitoring.exporter import served
    except ModuleNotFoundError:
        raise NO_CLIENT from None
    registry = CollectorRegistry()
    with served(registry, host, port) as url:
        logging.getLogger("farebox.worker").info("metrics: %s", url)
        yield DriverMetrics(registry)


def _stop_on_signals(made: Worker) -> None:
    stopping = False

    def stop(number: int) -> None:
        nonlocal stopping
        if stopping:
            os._exit(128 + number)  # Without a word to anybody: the database puts everything back.
        stopping = True
        made.stop()

    for number in _SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, stop, number)


def _log_to_stderr(log_format: Literal["text", "json"]) -> None:
    handler = logging.StreamHandler(sys.stderr)
    plain = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    handler.setFormatter(_JsonLines() if log_format == "json" else plain)
    log = logging.getLogger("farebox")
    log.handlers = [handler]
    log.setLevel(min(log.level or logging.INFO, logging.INFO))
