"""What the driver itself counts, for prometheus_client (`pip install farebox[metrics]`).

    from farebox.metrics import DriverMetrics

    AsyncFarebox(dsn, on_event=DriverMetrics())

Outcomes are counted here and not in the database, where counting would cost each ticket a row of its own.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from farebox.events import BatchEvent, ConnectionEvent, Event, RetryEvent

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30)
_SIZES: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)


class DriverMetrics:
    """An event hook that counts into a registry; one for any number of clients of a process.

    `farebox_driver_outcomes_total{outcome}`, `…_batch_seconds{function}`, `…_wait_seconds{function}`,
    `…_batch_rows{function}`, `…_errors_total{function,error}`, `…_retries_total{function,error}`,
    `…_connections{target}`, `…_connection_events_total{target,what}`. No label holds a phone, OTP or id.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._outcomes = Counter(
            "farebox_driver_outcomes", "Answers by outcome", ["outcome"], registry=registry
        )
        self._batches = Histogram(
            "farebox_driver_batch_seconds",
            "How long the database took",
            ["function"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._waits = Histogram(
            "farebox_driver_wait_seconds",
            "How long calls waited for a connection",
            ["function"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._rows = Histogram(
            "farebox_driver_batch_rows", "Answers in a batch", ["function"], buckets=_SIZES, registry=registry
        )
        self._errors = Counter(
            "farebox_driver_errors", "Failed statements", ["function", "error"], registry=registry
        )
        self._retries = Counter(
            "farebox_driver_retries", "Statements sent again", ["function", "error"], registry=registry
        )
        self._connections = Gauge(
            "farebox_driver_connections", "Open connections", ["target"], registry=registry
        )
        self._connection_events = Counter(
            "farebox_driver_connection_events",
            "Connections opened, lost or refused",
            ["target", "what"],
            registry=registry,
        )

    def __call__(self, event: Event) -> None:
        """Count one event."""
        match event:
            case BatchEvent():
                self._batches.labels(event.function).observe(event.duration)
                self._waits.labels(event.function).observe(event.waited)
                if event.error is not None:
                    self._errors.labels(event.function, event.error).inc()
                    return
                self._rows.labels(event.function).observe(event.rows)
                for outcome, count in event.outcomes.items():
                    self._outcomes.labels(outcome).inc(count)
            case RetryEvent():
                self._retries.labels(event.function, event.error).inc()
            case ConnectionEvent():
                self._connection_events.labels(event.target, event.what).inc()
                if event.what != "refused":
                    self._connections.labels(event.target).inc(1 if event.what == "opened" else -1)
