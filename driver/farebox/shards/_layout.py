"""The map of a sharded installation as the router keeps it, and the way to its shards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from farebox._dsn import Target
from farebox.errors import ConfigurationError, FareboxError, TransientError, map_error

PARTITIONS: Final = 64
QUEUE_ID_BITS: Final = 48
"""Each shard numbers its queued requests from its own number, shifted so far: ids are unique over all."""

# What tells where a database is, and nothing of who logs in there.
_PLACE: Final = (
    *("host", "hostaddr", "port", "dbname", "target_session_attrs"),
    *("sslmode", "sslrootcert", "channel_binding"),
)
_LOGIN: Final = ("user", "password", "passfile", "sslcert", "sslkey", "sslpassword")
# A shard that is gone is noticed in seconds: a refused connection at once, a silent network by these.
_LIMITS: Final[dict[str, str | int]] = {
    "connect_timeout": 2,
    "keepalives_idle": 2,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": 3000,
    "application_name": "farebox_router",
}


@dataclass(frozen=True, slots=True)
class ShardDsn:
    """A shard to set up.

    `dsn` is that of an administrator; `via`, if any, is the PgBouncer by which the router is to reach it.
    """

    name: str
    dsn: str = field(repr=False)
    via: str | None = None

    @property
    def place(self) -> str:
        """Where the database is, without a login."""
        return place_of(self.dsn)

    @property
    def place_via(self) -> str:
        """How the router reaches it, without a login."""
        if self.via is None:
            return self.place
        return place_of(make_conninfo(self.place, **conninfo_to_dict(place_of(self.via))))


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard that the router knows. `partitions` are those that live there, in order."""

    number: int
    name: str
    place: str
    place_via: str
    partitions: tuple[int, ...]

    @property
    def at(self) -> int | None:
        """Its place in the router's map: its first partition; None while it has none."""
        return self.partitions[0] if self.partitions else None


@dataclass(frozen=True, slots=True)
class Layout:
    """A sharded installation: its id, the number of partitions, whether the registry is on, the shards."""

    cluster_id: UUID
    partitions: int
    has_registry: bool
    shards: tuple[Shard, ...]

    @property
    def login(self) -> str:
        """The role as which the router logs in on each shard."""
        return f"farebox_router_{self.cluster_id.hex[:8]}"

    def shard(self, name: str) -> Shard:
        """The shard called that. Raises ConfigurationError."""
        for shard in self.shards:
            if shard.name == name:
                return shard
        known = ", ".join(shard.name for shard in self.shards)
        raise ConfigurationError(f"there is no shard {name!r}; there are {known}")


def place_of(dsn: str) -> str:
    """Where `dsn` leads, without login and password."""
    Target(dsn)
    given = conninfo_to_dict(dsn)
    return make_conninfo("", **{key: given[key] for key in _PLACE if given.get(key) is not None})


def router_options(layout: Layout) -> dict[str, dict[str, str]]:
    """The options of the router's foreign servers, one for each cluster of PL/Proxy: p0, p1, …"""

    def options(place_of_shard: Mapping[int, str]) -> dict[str, str]:
        return {
            f"p{partition}": place_of_shard[shard.number]
            for shard in layout.shards
            for partition in shard.partitions
        }

    limited = {shard.number: make_conninfo(shard.place_via, **_LIMITS) for shard in layout.shards}
    unlimited = {
        shard.number: make_conninfo(shard.place, **(_LIMITS | {"options": "-c statement_timeout=0"}))
        for shard in layout.shards
    }
    return {"farebox": options(limited), "farebox_long": options(unlimited)}


def read_layout(conn: psycopg.Connection[Any]) -> Layout:
    """The map of the router behind `conn`. Raises ConfigurationError when that is no router."""
    try:
        settings = conn.execute(
            "select cluster_id, partitions, has_registry from farebox.sharding where is_router"
        ).fetchone()
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        settings = None
    if settings is None:
        raise ConfigurationError(
            f"the database {conn.info.dbname} is no router",
            hint="farebox shards init makes one; --dsn or FAREBOX_DSN names it.",
        )
    rows = conn.execute(
        "select s.shard, s.name, s.conninfo, s.conninfo_via,"
        " array(select p.partition from farebox.partitions as p where p.shard = s.shard order by p.partition)"
        " from farebox.shards as s order by s.shard"
    )
    shards = tuple(Shard(number, name, at, via, tuple(parts)) for number, name, at, via, parts in rows)
    return Layout(settings[0], settings[1], settings[2], shards)


def hold_map(router: psycopg.Connection[Any]) -> None:
    """Nobody else changes the map as long as that connection lives: who writes it has read it before.

    Raises TransientError.
    """
    try:
        with router.transaction():
            # The session of a command that has just ended may need a moment to be gone.
            router.execute("set local lock_timeout = '300ms'")
            router.execute(
                "select pg_advisory_lock(to_regnamespace('farebox')::oid::int, 0)"
                " where to_regnamespace('farebox') is not null"
            )
    except psycopg.errors.LockNotAvailable:
        raise TransientError(
            "another farebox shards command is changing this installation", hint="Wait for it."
        ) from None


def is_first_here(conn: psycopg.Connection[Any]) -> bool:
    """Whether no other connection of this command is to that same database, by whatever address.

    Asked of each of them, while all are open. Names do not tell, nor do ids, which copies of a server share.
    """
    return conn.execute("select pg_try_advisory_lock(hashtext('farebox shards'), 0)").fetchone() == (True,)


def operator_dsn(router_dsn: str, place: str) -> str:
    """Where `place` is, with the login of the router's DSN.

    Whoever looks after the installation has the same login everywhere; its password may also come from a
    passfile.
    """
    given = conninfo_to_dict(router_dsn)
    login = {key: given[key] for key in _LOGIN if given.get(key) is not None}
    return make_conninfo(place, **login)


def connect(dsn: str) -> psycopg.Connection[tuple[Any, ...]]:
    """An autocommit connection. Raises what `farebox.errors` makes of a failure."""
    failure: FareboxError
    try:
        return psycopg.connect(Target(dsn).conninfo, autocommit=True)
    except psycopg.Error as error:
        failure = map_error(error)
    raise failure
