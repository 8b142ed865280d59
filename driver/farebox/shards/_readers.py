"""Routers that read from standbys of the shards (`farebox shards reader`), with the map of the router."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import psycopg

from farebox.errors import ConfigurationError, FareboxError, map_error
from farebox.shards._layout import (
    Layout,
    ShardDsn,
    connect,
    hold_map,
    is_first_here,
    operator_dsn,
    place_of,
    read_layout,
)
from farebox.shards._setup import (
    make_router,
    migrate_if_blank,
    refuse_data,
    require_superuser,
    router_password,
    write_map,
)

Connection = psycopg.Connection[Any]


def make_reader(router_dsn: str, reader_dsn: str, replicas: Sequence[ShardDsn]) -> Layout:
    """Makes the database of `reader_dsn` a router that reads from standbys of the shards: for `read_dsn`.

    `replicas` names each shard of the router and where its standby is. From now on the router knows of it:
    a move changes its map, `migrate_all` migrates it. Raises as `init`.
    """
    with connect(router_dsn) as router:
        hold_map(router)
        layout = read_layout(router)
        if router.execute("select where to_regclass('farebox.readers') is null").rowcount:
            raise ConfigurationError("this router is older than this program", hint="farebox shards migrate")
        password = router_password(router)
        given = {replica.name: replica for replica in replicas}
        if given.keys() != {shard.name for shard in layout.shards}:
            raise ConfigurationError("name a replica for each shard, by the shard's name")
        shards = tuple(
            replace(shard, place=given[shard.name].place, place_via=given[shard.name].place_via)
            for shard in layout.shards
        )
        layout = replace(layout, shards=shards)
        with connect(reader_dsn) as reader:
            require_superuser(reader)
            if is_first_here(router) and not is_first_here(reader):
                raise ConfigurationError(
                    "that is the router itself, which would send its sales to the standbys",
                    hint="A reader is a database of its own, on any server with PL/Proxy.",
                )
            migrate_if_blank(reader_dsn, reader)
            refuse_data(reader, "this database has companies of its own: it cannot become a router")
            make_router(reader, layout, password)
        router.execute(
            "insert into farebox.readers (place) values (%s) on conflict (place) do nothing",
            [place_of(reader_dsn)],
        )
    return layout


def forget_reader(router_dsn: str, reader_dsn: str) -> None:
    """The router keeps that reader's map no longer. Raises ConfigurationError when it did not."""
    with connect(router_dsn) as router:
        read_layout(router)
        place = place_of(reader_dsn)
        if not router.execute("delete from farebox.readers where place = %s", [place]).rowcount:
            raise ConfigurationError(
                f"no reader is known at {place}", hint=f"Known are: {', '.join(readers(router)) or 'none'}."
            )


def readers(router: Connection) -> list[str]:
    """Where they are."""
    if router.execute("select where to_regclass('farebox.readers') is null").rowcount:
        return []  # the router is older than this program
    return [place for (place,) in router.execute("select place from farebox.readers order by place")]


def tell_readers(router: Connection, router_dsn: str, layout: Layout) -> Iterator[tuple[str, str]]:
    """Gives them the map of the router; yields those that could not be told, and why."""
    for place in readers(router):
        try:
            with connect(operator_dsn(router_dsn, place)) as reader, reader.transaction():
                write_map(reader, _as_of(reader, layout))
        except psycopg.Error as error:
            yield place, str(map_error(error))
        except FareboxError as error:
            yield place, str(error)


def remake_reader(reader_dsn: str, layout: Layout, password: str) -> None:
    """Makes a reader's functions anew, and gives it the map of the router."""
    with connect(reader_dsn) as reader:
        make_router(reader, _as_of(reader, layout), password)


def has_map(reader: Connection, layout: Layout) -> bool:
    """Whether a reader has the map of the router."""
    return _partitions(read_layout(reader)) == _partitions(layout)


def _as_of(reader: Connection, layout: Layout) -> Layout:
    """The map of the router with the reader's places; a shard of which it has no standby is read itself."""
    known = {shard.number: shard for shard in read_layout(reader).shards}
    shards = tuple(
        replace(shard, place=known[shard.number].place, place_via=known[shard.number].place_via)
        if shard.number in known
        else shard
        for shard in layout.shards
    )
    return replace(layout, shards=shards)


def _partitions(layout: Layout) -> dict[int, tuple[int, ...]]:
    return {shard.number: shard.partitions for shard in layout.shards if shard.partitions}
