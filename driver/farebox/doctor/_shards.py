"""Checks of a router: do all shards answer, and do they agree with it?"""

from __future__ import annotations

from collections.abc import Iterator

from farebox import shards as sharding
from farebox.doctor._finding import Context, Found, Level, Part, check


@check(
    "shards",
    why="Companies of a shard that does not answer, or not agree with the router's map, sell nothing.",
    good="all shards answer and agree with the router",
    needs_schema=True,
    only_on=Part.ROUTER,
)
def _shards(context: Context) -> Iterator[Found]:
    rows = context.rows(
        "select labels ->> 'shard' as name from farebox.metrics_server()"
        " where metric = 'farebox_shard_up' and value = 0"
    )
    lost = {row["name"] for row in rows}
    for name in sorted(lost):
        yield (
            Level.PROBLEM,
            f"the shard {name} does not answer",
            "start it, or promote its standby under the same address: db/SHARDING.md",
        )
    # The map is the owner's: a login that only watches is told no more.
    if not context.row("select pg_has_role('farebox_owner', 'usage') as may")["may"]:
        return
    for problem in sharding.check(context.dsn):
        if problem.where not in lost:
            is_under_way = problem.where in ("move", "versions")
            yield (
                Level.WARNING if is_under_way else Level.PROBLEM,
                problem.what if is_under_way else f"{problem.where}: {problem.what}",
                "farebox shards status" if problem.where == "move" else "farebox shards check",
            )
