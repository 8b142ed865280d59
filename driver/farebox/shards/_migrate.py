"""Migrations over shards: one after the other, then the router. Old and new work side by side meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from farebox import migrate
from farebox.errors import FareboxError, MigrationError
from farebox.shards._layout import connect, hold_map, operator_dsn, read_layout
from farebox.shards._move import refuse_unfinished
from farebox.shards._readers import readers, remake_reader
from farebox.shards._setup import make_router, make_shard, router_password


@dataclass(frozen=True, slots=True)
class Migrated:
    """A database that is up to date now, and the migrations that were applied to it."""

    name: str
    applied: list[str]


def migrate_all(router_dsn: str) -> Iterator[Migrated]:
    """Migrates shard by shard, then the readers, the router last; yields each when it is done.

    A function that is released keeps its signature, so a router works with older and newer shards. Raises
    MigrationError that says which database failed; those before it are done, those after it untouched, and
    the same call again goes on there.
    """
    with connect(router_dsn) as router:
        hold_map(router)
        layout = read_layout(router)
        refuse_unfinished(router, layout)
        password = router_password(router)
        done: list[str] = []
        for shard in layout.shards:
            dsn = operator_dsn(router_dsn, shard.place)
            try:
                applied = migrate.apply(dsn, sharded=True)
                make_shard(dsn, layout, shard, password)
            except FareboxError as error:
                raise _failed(shard.name, done, error) from error
            done.append(shard.name)
            yield Migrated(shard.name, applied)
        for place in readers(router):
            dsn = operator_dsn(router_dsn, place)
            name = f"the reader {place}"
            try:
                applied = migrate.apply(dsn, sharded=True)
                remake_reader(dsn, layout, password)
            except FareboxError as error:
                raise _failed(name, done, error) from error
            done.append(name)
            yield Migrated(name, applied)
        try:
            applied = migrate.apply(router_dsn, sharded=True)
            make_router(router, layout, password)
        except FareboxError as error:
            raise _failed("the router", done, error) from error
    yield Migrated("router", applied)


def _failed(name: str, done: list[str], error: FareboxError) -> MigrationError:
    before = f"done: {', '.join(done)}" if done else "nothing was done before"
    return MigrationError(
        f"{name}: {error.args[0]} ({before}; the others are as they were)",
        sqlstate=error.sqlstate,
        detail=error.detail,
        hint=error.hint or "Run farebox shards migrate again: it goes on here.",
    )
