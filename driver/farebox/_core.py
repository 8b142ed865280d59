"""What a client needs on one event loop, put together: connections, reads, the catalog's cache."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from farebox._catalog import Catalog
from farebox._dsn import Target
from farebox._outcomes import Outcomes
from farebox._replica import Reader
from farebox._scheduler import Scheduler
from farebox.events import Observer
from farebox.options import Settings


@dataclass(frozen=True, slots=True)
class Targets:
    """Where a client connects; the DSNs checked."""

    primary: Target
    replica: Target | None
    listen: Target

    @classmethod
    def of(cls, dsn: str, settings: Settings) -> Targets:
        """Raises `ConfigurationError` for a malformed DSN."""
        primary = Target(dsn)
        return cls(
            primary,
            None if settings.read_dsn is None else Target(settings.read_dsn, spread=True),
            primary if settings.listen_dsn is None else Target(settings.listen_dsn),
        )


class Core:
    """Everything of a client that lives on one event loop."""

    def __init__(self, targets: Targets, settings: Settings) -> None:
        self.loop = asyncio.get_running_loop()
        observer = Observer(settings.on_event)
        patience = settings.patience
        prepare = settings.prepared_statements
        self.primary = Scheduler(targets.primary, settings.limits, patience, observer, prepare=prepare)
        self._schedulers = [self.primary]
        replica: Scheduler | None = None
        if targets.replica is not None:
            limits = replace(settings.limits, connections=settings.read_connections)
            replica = Scheduler(targets.replica, limits, patience, observer, prepare=prepare)
            self._schedulers.append(replica)
        self.reader = Reader(self.primary, replica, patience, settings.replica_wait)
        self.catalog = Catalog(
            targets.listen, observer, patience, ttl=settings.catalog_ttl, size=settings.catalog_size
        )
        self.outcomes = Outcomes(targets.listen, self.primary, patience, observer)

    async def close(self, grace: float) -> None:
        """Close; if the event loop is closed already, just let the connections go."""
        if self.loop.is_closed():
            self.abandon()
            return
        self.catalog.listener.stop()
        self.outcomes.stop()
        for scheduler in self._schedulers:
            scheduler.stop()
        try:
            await asyncio.gather(
                self.catalog.listener.finish(),
                self.outcomes.finish(),
                *(scheduler.finish(grace) for scheduler in self._schedulers),
            )
        finally:
            # Also for whoever does not want to wait so long: nobody else would do it.
            for scheduler in self._schedulers:
                scheduler.disconnect()

    def abandon(self) -> None:
        """Disconnect after the event loop was closed."""
        for scheduler in self._schedulers:
            scheduler.abandon()
