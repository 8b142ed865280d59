"""The settings of a client, in one place for both clients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict

from farebox._queue import Patience
from farebox._scheduler import Limits
from farebox.errors import ConfigurationError
from farebox.events import Hook

Consistency = Literal["replica", "own_writes", "primary"]

_AT_LEAST_1 = (
    "connections",
    "pipeline",
    "max_batch",
    "max_waiting",
    "attempts",
    "read_connections",
    "catalog_size",
)
_AT_LEAST_0 = ("timeout", "backoff", "replica_wait", "catalog_ttl")


class Options(TypedDict, total=False):
    """What `AsyncFarebox` and `Farebox` take besides the DSN.

    `Settings` says what each means and its default.
    """

    strict: bool
    connections: int
    pipeline: int
    max_batch: int
    max_waiting: int
    when_full: Literal["wait", "raise"]
    timeout: float | None
    attempts: int
    backoff: float
    prepared_statements: bool | None
    read_dsn: str | None
    read_connections: int
    consistency: Consistency
    replica_wait: float
    catalog_ttl: float
    catalog_size: int
    listen_dsn: str | None
    on_event: Hook | None


@dataclass(frozen=True, slots=True)
class Settings:
    """Every option with its default. Raises `ConfigurationError` for a value out of range.

    - `strict`: raise for a malformed request before anything is sent; else the database judges it. -
    `connections`: at most so many to the primary; `pipeline`: statements in flight on each. -
    `max_batch`: elements in a shared batch, 1 to 10,000. - `max_waiting`: calls that may wait for a
    connection; `when_full`: a further one waits for a place, or raises `BusyError`. - `timeout`: seconds
    for a call in all, retries included (None: no limit); for `create_tickets`, for each chunk. -
    `attempts`: tries in all when an error is transient; `backoff`: seconds, doubled for each further
    delay, of which a random share is waited. - `prepared_statements`: None means wherever no pooler is
    in between. True is right for PgBouncer 1.21 and later with max_prepared_statements. - `read_dsn`:
    replicas for reads, one or several hosts; `read_connections` to them; `consistency`: what reads see
    unless they say otherwise; `replica_wait`: seconds to wait for a replica to catch up, then the
    primary. - `catalog_ttl`: seconds that look-ups are cached at most (0: never); `catalog_size`:
    entries; `listen_dsn`: where to listen for changes when `dsn` goes through a pooler. - `on_event`:
    called with each `farebox.events.Event`, on the event loop: be quick.
    """

    strict: bool = True
    connections: int = 4
    pipeline: int = 4
    max_batch: int = 100
    max_waiting: int = 10_000
    when_full: Literal["wait", "raise"] = "wait"
    timeout: float | None = 30.0
    attempts: int = 3
    backoff: float = 0.1
    prepared_statements: bool | None = None
    read_dsn: str | None = None
    read_connections: int = 2
    consistency: Consistency = "replica"
    replica_wait: float = 0.25
    catalog_ttl: float = 30.0
    catalog_size: int = 10_000
    listen_dsn: str | None = None
    on_event: Hook | None = None

    def __post_init__(self) -> None:
        for name in _AT_LEAST_1 + _AT_LEAST_0:
            least = 1 if name in _AT_LEAST_1 else 0
            value: float | None = getattr(self, name)
            if value is not None and not value >= least:
                raise ConfigurationError(f"{name} must be at least {least}")
        if self.max_batch > 10_000:
            raise ConfigurationError(
                "max_batch must be at most 10000", hint="the database takes no more at once"
            )

    @property
    def limits(self) -> Limits:
        """What the scheduler of the primary needs."""
        return Limits(self.connections, self.pipeline, self.max_batch, self.max_waiting, self.when_full)

    @property
    def patience(self) -> Patience:
        """How calls are retried."""
        return Patience(self.timeout, self.attempts, self.backoff)
