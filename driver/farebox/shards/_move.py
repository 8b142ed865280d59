"""Moves a partition to another shard while sales go on: `farebox shards move`.

1. Checks. 2. A publication with row filters on the source, a subscription on the target: the first copy, then
what changes. 3. The fence: nobody writes to the partition (callers wait for its end on the source, and ask
again), until the target has on disk all that was written, the small tables are over and both sides were
compared. 4. The switch, in this order: the source is closed for good; the target is opened, in one
transaction with what was handed over; the router's map; the source forgets the partition. So there is a
moment in which neither accepts a write, and none in which both do. 5. What was left behind is deleted, each
ticket once it was found on the target.

No state is kept of how far it is: the two shards tell, by their `own_partitions`. The router notes only that
there is a move (`farebox.moves`), so that the same command goes on after a death at any point. A dead mover's
fence opens by itself. Until the target is open the way back is `abort`; afterwards it is another move.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, Final

import psycopg

from farebox.errors import ConfigurationError, MigrationError, map_error
from farebox.shards import _handover as handover
from farebox.shards._journey import Journey, MoveProgress, unfinished
from farebox.shards._layout import Layout
from farebox.shards._left_behind import remove_copy

Connection = psycopg.Connection[Any]

FENCE_SECONDS: Final = 5.0
"""How long a partition may be closed before a move gives up for now."""


def refuse_unfinished(router: Connection, layout: Layout) -> None:
    """Nothing changes the shards while a partition is on its way. Raises MigrationError."""
    found = unfinished(router, layout)
    if found is not None:
        raise MigrationError(str(found), hint="Finish that move first, or take it back with --abort.")


def move(
    router_dsn: str,
    partition: int,
    target: str,
    *,
    fence_seconds: float = FENCE_SECONDS,
    source_dsn: str | None = None,
) -> Iterator[MoveProgress]:
    """Moves `partition` to the shard `target`; yields at each step. Run it again after a failure: it goes on.

    `source_dsn`: how the target's server reaches the source, with which login; default as we do. Raises
    ConfigurationError and PermissionDeniedError before anything was done, with what to do;
    TransientError when the fence opened again or a lock was not to be had; MigrationError.
    """
    with _mapped(), Journey.begin(router_dsn, partition, target) as journey:
        if journey is None:
            yield MoveProgress("done", f"partition {partition} lives on {target}")
            return
        if not handover.is_on_target(journey.target, partition):
            if not journey.is_noted():
                yield MoveProgress("checking", "checking both servers")
                yield from journey.check(source_dsn)
                journey.note()
            yield from journey.copy(source_dsn)
            yield from journey.hand_over(fence_seconds)
        yield MoveProgress("switching", f"the router sends partition {partition} to {target}")
        yield from journey.switch()
        yield MoveProgress("waiting", "waiting for calls that began before")
        journey.wait_for_old_calls()
        yield from journey.clean_up()
        yield MoveProgress("done", f"partition {partition} lives on {target}")


def abort(router_dsn: str, partition: int) -> Iterator[MoveProgress]:
    """Takes back the move that has begun, as long as the target was not opened. Raises ConfigurationError."""
    with _mapped(), Journey.resume(router_dsn, partition) as journey:
        journey.hold()
        if handover.is_on_target(journey.target, journey.partition):
            raise ConfigurationError(
                f"partition {journey.partition} lives on {journey.to.name} already",
                hint="Run the move again: it ends there. Then move the partition back.",
            )
        handover.reopen(journey.source, journey.partition)
        journey.router.execute("update farebox.moves set is_taken_back = true")
        yield MoveProgress("taking back", "sales go on where they were")
        for told in journey.replication.end(journey.altered()):
            yield MoveProgress("taking back", told)
        companies = handover.companies_of(journey.source, journey.partition)
        for rows in remove_copy(journey.target, journey.partition, companies):
            yield MoveProgress("taking back", "removing the copy", rows)
        journey.forget()
        yield MoveProgress("taken back", f"partition {journey.partition} stays on {journey.away.name}")


@contextmanager
def _mapped() -> Generator[None]:
    try:
        yield
    except psycopg.Error as error:
        raise map_error(error) from None
