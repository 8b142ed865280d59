"""Serves the metrics of a database to Prometheus (`pip install farebox[metrics]`)."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from farebox.monitoring.samples import GROUPS, HELP, collect


class DatabaseCollector(Collector):
    """Asks the database at each scrape. Register it beside the collectors of your own process."""

    def __init__(self, dsn: str, groups: Sequence[str] = GROUPS) -> None:
        self._dsn = dsn
        self._groups = groups

    def describe(self) -> list[Metric]:
        """Nothing: registering must not ask the database."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The families of now."""
        for family in collect(self._dsn, self._groups):
            # The client adds the suffix of counters itself.
            metric = Metric(
                family.name.removesuffix("_total"), HELP.get(family.name, family.name), family.kind
            )
            for sample in family.samples:
                metric.add_sample(family.name, dict(sample.labels), sample.value)
            yield metric


def registry_of(dsn: str, groups: Sequence[str] = GROUPS) -> CollectorRegistry:
    """A registry with the metrics of that database only."""
    registry = CollectorRegistry()
    registry.register(DatabaseCollector(dsn, groups))
    return registry


@contextmanager
def served(registry: CollectorRegistry, host: str, port: int) -> Generator[str]:
    """Serve the registry while the block runs; gives the URL, its port chosen by the system for 0.

    Raises OSError when the address is taken or not this machine's.
    """
    server, thread = start_http_server(port, host, registry)
    try:
        yield f"http://{f'[{host}]' if ':' in host else host}:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
