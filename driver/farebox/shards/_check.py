"""Looks at a sharded installation: what each shard is like, and whether all agree on the map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg

from farebox.errors import FareboxError, map_error
from farebox.shards._journey import Unfinished, unfinished
from farebox.shards._layout import Layout, Shard, connect, operator_dsn, read_layout, router_options
from farebox.shards._readers import has_map, readers


@dataclass(frozen=True, slots=True)
class ShardStatus:
    """A shard as it is now; counts are estimates of the server's statistics, None when it does not answer."""

    name: str
    number: int
    partitions: int
    place: str
    answers: bool
    companies: int | None = None
    tickets: int | None = None
    queued: int | None = None
    bytes: int | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it should be: where, and what."""

    where: str
    what: str


def status(router_dsn: str) -> tuple[Layout, list[ShardStatus]]:
    """The installation and the state of each shard. A shard that does not answer is told, not raised."""
    with connect(router_dsn) as router:
        layout = read_layout(router)
    return layout, [_status(router_dsn, shard) for shard in layout.shards]


def moving(router_dsn: str) -> Unfinished | None:
    """The move of a partition that has begun and not ended."""
    with connect(router_dsn) as router:
        return unfinished(router, read_layout(router))


def check(router_dsn: str) -> list[Problem]:
    """Whether router and shards agree: the map, what each database is, its version, its companies."""
    with connect(router_dsn) as router:
        layout = read_layout(router)
        problems = _check_router(router, layout)
        moving = unfinished(router, layout)
        versions = {"router": _version(router)}
        places = readers(router)
    if moving is not None:
        problems.append(Problem("move", str(moving)))
    for shard in layout.shards:
        try:
            with connect(operator_dsn(router_dsn, shard.place)) as conn:
                problems += _check_shard(conn, layout, shard)
                versions[shard.name] = _version(conn)
        except psycopg.Error as error:
            problems.append(Problem(shard.name, str(map_error(error))))
        except FareboxError as error:
            problems.append(Problem(shard.name, str(error)))
    for place in places:
        name = f"reader {place}"
        try:
            with connect(operator_dsn(router_dsn, place)) as conn:
                if not has_map(conn, layout):
                    problems.append(Problem(name, "its map is not the router's: farebox shards migrate"))
                versions[name] = _version(conn)
        except psycopg.Error as error:
            problems.append(Problem(name, str(map_error(error))))
        except FareboxError as error:
            problems.append(Problem(name, str(error)))
    if len(set(versions.values())) > 1:
        told = ", ".join(f"{name} {version or 'not migrated'}" for name, version in versions.items())
        problems.append(Problem("versions", f"not all are alike: {told}; farebox shards migrate"))
    return problems


def _check_router(router: psycopg.Connection[Any], layout: Layout) -> list[Problem]:
    problems: list[Problem] = []
    seen = sorted(partition for shard in layout.shards for partition in shard.partitions)
    if seen != list(range(layout.partitions)):
        problems.append(Problem("router", f"the map names {len(seen)} of {layout.partitions} partitions"))
    for server, wanted in router_options(layout).items():
        row = router.execute(
            "select coalesce(array_agg(o), '{}') from pg_foreign_server as s, unnest(s.srvoptions) as o"
            " where s.srvname = %s",
            [server],
        ).fetchone()
        options: list[str] = row[0] if row else []
        actual = dict(option.split("=", 1) for option in options)
        if actual != wanted:
            problems.append(Problem("router", f"the foreign server {server} is not what the map says"))
    if not router.execute(
        "select from pg_proc where oid = 'farebox.create_tickets(json)'::regprocedure"
        " and position('_route_requests' in prosrc) > 0"
    ).rowcount:
        problems.append(
            Problem("router", "its functions are those of a plain database: farebox shards migrate")
        )
    return problems


def _check_shard(conn: psycopg.Connection[Any], layout: Layout, shard: Shard) -> list[Problem]:
    problems: list[Problem] = []
    row = conn.execute("select cluster_id, shard, partitions, has_registry from farebox.sharding").fetchone()
    if row != (layout.cluster_id, shard.number, layout.partitions, layout.has_registry):
        problems.append(Problem(shard.name, "it is not the shard that the router takes it for"))
    rows = conn.execute("select partition, is_open from farebox.own_partitions order by partition").fetchall()
    own = tuple(partition for partition, is_open in rows if is_open)
    if own != shard.partitions:
        differing = sorted(set(own) ^ set(shard.partitions))
        problems.append(Problem(shard.name, f"router and shard do not agree about partitions {differing}"))
    if closed := [partition for partition, is_open in rows if not is_open]:
        problems.append(Problem(shard.name, f"partitions {closed} are closed there: nothing is sold in them"))
    foreign = conn.execute(
        "select count(*) from farebox.companies as c where not exists ("
        " select from farebox.own_partitions as o where o.partition = farebox._partition_of(c.id::text))"
    ).fetchone()
    if foreign is not None and foreign[0]:
        problems.append(Problem(shard.name, f"{foreign[0]} companies there are of other shards"))
    return problems


def _version(conn: psycopg.Connection[Any]) -> str | None:
    """The last migration applied."""
    if conn.execute("select where to_regclass('farebox_migrations._yoyo_migration') is null").rowcount:
        return None
    row = conn.execute("select max(migration_id) from farebox_migrations._yoyo_migration").fetchone()
    return None if row is None else row[0]


def _status(router_dsn: str, shard: Shard) -> ShardStatus:
    known = (shard.name, shard.number, len(shard.partitions), shard.place)
    try:
        with connect(operator_dsn(router_dsn, shard.place)) as conn:
            row = conn.execute(
                "select (select count(*) from farebox.companies),"
                " (select greatest(c.reltuples, 0)::bigint from pg_class as c"
                " where c.oid = 'farebox.tickets'::regclass),"
                " (select count(*) from farebox.ticket_queue), pg_database_size(current_database())"
            ).fetchone()
            assert row is not None
            return ShardStatus(*known, True, *row)
    except psycopg.Error as error:
        return ShardStatus(*known, False, problem=str(map_error(error)))
    except FareboxError as error:
        return ShardStatus(*known, False, problem=str(error))


def where(router_dsn: str, company_id: str) -> tuple[Shard, int] | None:
    """The shard of a company and its partition, whether there is such a company or not."""
    with connect(router_dsn) as router:
        layout = read_layout(router)
        row = router.execute("select farebox._partition_of((%s::uuid)::text)", [company_id]).fetchone()
    assert row is not None
    for shard in layout.shards:
        if row[0] in shard.partitions:
            return shard, row[0]
    return None
