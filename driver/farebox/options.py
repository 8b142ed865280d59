"""The settings of a client, in one place for both clients."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal, TypedDict, get_args

from farebox._queue import Patience
from farebox._scheduler import Limits
from farebox.errors import ConfigurationError
from farebox.events import Hook

Consistency = Literal["replica", "own_writes", "primary"]
WhenFull = Literal["wait", "raise"]
CONSISTENCIES: Final[tuple[str, ...]] = get_args(Consistency)

_AT_LEAST_1 = (
    "connections",
    "pipeline",
    "pooled_pipeline",
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
    pooled_pipeline: int
    max_batch: int
    max_waiting: int
    when_full: WhenFull
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
    """Every option with its default. Raises `ConfigurationError` for a value out of range."""

    strict: bool = True
    """Raise for a malformed request before anything is sent; else the database judges it."""
    connections: int = 4
    """At most so many to the primary."""
    pipeline: int = 4
    """Statements in flight on each."""
    pooled_pipeline: int = 1
    """The same through a pooler: PgBouncer 1.18 was seen to corrupt more than 1, 1.24 stood up to 4."""
    max_batch: int = 100
    """Elements in a shared batch, 1 to 10,000."""
    max_waiting: int = 10_000
    """Calls that may wait for a connection, each with its request encoded."""
    when_full: WhenFull = "wait"
    """A further call waits for a place, as a task and a future of the caller's, or raises `BusyError`."""
    timeout: float | None = 30.0
    """Seconds for a call in all, retries included (None: no limit); of a list, for each chunk."""
    attempts: int = 3
    """Tries in all when errors are transient; a refused connection counts as one."""
    backoff: float = 0.1
    """Seconds before the second try, doubled for each further one; a random share of it is waited."""
    prepared_statements: bool | None = None
    """None: wherever no pooler is in between. True suits PgBouncer from 1.21, max_prepared_statements > 0."""
    read_dsn: str | None = field(default=None, repr=False)
    """Replicas for reads, one host or several; the primary stands in for them."""
    read_connections: int = 2
    """At most so many to the replicas."""
    consistency: Consistency = "replica"
    """What reads see unless they say otherwise: see `AsyncFarebox.get_ticket`."""
    replica_wait: float = 0.25
    """Seconds to wait for a replica that has not replayed the client's own writes; then the primary."""
    catalog_ttl: float = 30.0
    """Seconds that look-ups are cached at most (0: not at all)."""
    catalog_size: int = 10_000
    """Look-ups cached at most."""
    listen_dsn: str | None = field(default=None, repr=False)
    """Where to listen for changes of the catalog when `dsn` goes through a pooler."""
    on_event: Hook | None = None
    """Called with each `farebox.events.Event`, on the client's event loop: be quick."""

    def __post_init__(self) -> None:
        for name in _AT_LEAST_1 + _AT_LEAST_0:
            least = 1 if name in _AT_LEAST_1 else 0
            value: float | None = getattr(self, name)
            if value is None and name == "timeout":
                continue
            if value is None or not value >= least:
                raise ConfigurationError(f"{name} must be at least {least}")
        # A misspelled one would be taken for another.
        for name, choices in (("consistency", CONSISTENCIES), ("when_full", get_args(WhenFull))):
            if getattr(self, name) not in choices:
                raise ConfigurationError(f"{name} must be one of {', '.join(choices)}")
        if self.max_batch > 10_000:
            raise ConfigurationError(
                "max_batch must be at most 10000", hint="the database takes no more at once"
            )

    @property
    def limits(self) -> Limits:
        """What the scheduler of the primary needs."""
        return Limits(
            self.connections,
            self.pipeline,
            self.pooled_pipeline,
            self.max_batch,
            self.max_waiting,
            self.when_full,
        )

    @property
    def patience(self) -> Patience:
        """How calls are retried."""
        return Patience(self.timeout, self.attempts, self.backoff)
