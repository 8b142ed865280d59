"""Shards whose router was lost: they know the map, and how far a move has come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psycopg

from farebox.errors import ConfigurationError
from farebox.shards._layout import Layout, Shard, ShardDsn, connect
from farebox.shards._replication import FULL


@dataclass(frozen=True, slots=True)
class Adopted:
    """An installation as its shards know it.

    `move`, if one has begun: the partition, the numbers of its source and its target, and the tables of the
    source whose replica identity was set for it.
    """

    layout: Layout
    move: tuple[int, int, int, list[str]] | None


@dataclass(slots=True)
class _Found:
    """What one shard says of itself; `own` tells of each partition that lives there whether it is open."""

    number: int
    given: ShardDsn
    cluster_id: UUID
    partitions: int
    has_registry: bool
    own: dict[int, bool]
    coming: set[int]
    going: set[int]
    altered: list[str]
    homes: list[int] = field(default_factory=list[int])


def adopt(shards: Sequence[ShardDsn]) -> Adopted | None:
    """The installation that these databases are; None when they are none. Raises ConfigurationError."""
    asked = [_ask(given) for given in shards]
    found = sorted((shard for shard in asked if shard is not None), key=lambda shard: shard.number)
    if not found:
        return None
    first = found[0]
    alike = {(shard.cluster_id, shard.partitions, shard.has_registry) for shard in found}
    move = None
    is_whole = len(alike) == 1 and len(found) == len(shards)
    for partition in range(first.partitions) if is_whole else ():
        owners = [shard for shard in found if partition in shard.own]
        # Behind the wall of a move it is closed on both, or lives on the target already.
        homes = [shard for shard in owners if shard.own[partition]] or owners
        if len(homes) != 1:
            is_whole = False
            break
        homes[0].homes.append(partition)
        others = [shard for shard in found if shard is not homes[0]]
        for other in others:
            if partition in other.coming:
                move = (partition, homes[0].number, other.number, homes[0].altered)
            elif partition in other.own or partition in other.going:
                move = (partition, other.number, homes[0].number, other.altered)
    if not is_whole:
        raise ConfigurationError(
            "these databases are not all the shards of one installation",
            hint="Name all of its shards, and only those.",
        )
    layout = Layout(
        first.cluster_id,
        first.partitions,
        first.has_registry,
        tuple(
            Shard(one.number, one.given.name, one.given.place, one.given.place_via, tuple(one.homes))
            for one in found
        ),
    )
    return Adopted(layout, move)


def _ask(given: ShardDsn) -> _Found | None:
    with connect(given.dsn) as conn:
        if conn.execute("select where to_regclass('farebox.sharding') is null").rowcount:
            return None
        row = conn.execute(
            "select shard, cluster_id, partitions, has_registry from farebox.sharding"
        ).fetchone()
        if row is None:
            return None
        if row[0] is None:
            raise ConfigurationError(f"{given.name} is a router", hint="Name its shards.")
        number, cluster_id, partitions, has_registry = row
        return _Found(
            number,
            given,
            cluster_id,
            partitions,
            has_registry,
            dict(conn.execute("select partition, is_open from farebox.own_partitions").fetchall()),
            _strays(conn, is_coming=True),
            _strays(conn, is_coming=False),
            [
                name
                for (name,) in conn.execute(
                    "select relname from pg_class where relnamespace = 'farebox'::regnamespace"
                    " and relname = any (%s) and relreplident = 'f' order by relname",
                    [list(FULL)],
                )
            ],
        )


def _strays(conn: psycopg.Connection[Any], *, is_coming: bool) -> set[int]:
    if conn.execute("select where to_regclass('farebox.stray_partitions') is null").rowcount:
        return set()
    rows = conn.execute(
        "select partition from farebox.stray_partitions where is_coming = %s", [is_coming]
    ).fetchall()
    return {partition for (partition,) in rows}
