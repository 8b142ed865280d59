# ruff: noqa: E501 - sentences and SQL stay in one piece
"""Checks of how the tables are kept: statistics, dead rows, bloat."""

from __future__ import annotations

from collections.abc import Iterator

from farebox.doctor._finding import Context, Found, Level, Part, check


@check(
    "statistics",
    why="The planner goes by them; the functions of the hot path do not, but reports and verify() do.",
    good="the statistics are fresh",
    needs_schema=True,
)
def _statistics(context: Context) -> Iterator[Found]:
    limits = context.thresholds
    rows = context.rows(
        """
        select s.relid::regclass::text as name, s.n_mod_since_analyze as changed, s.n_live_tup as live,
          greatest(s.last_analyze, s.last_autoanalyze) as analyzed
        from pg_stat_user_tables as s where s.schemaname = 'farebox' order by s.relname
        """
    )
    for row in rows:
        least = max(limits.changed_rows_least, limits.changed_rows_share * row["live"])
        if row["changed"] < least:
            continue
        since = f"since {row['analyzed']:%Y-%m-%d %H:%M}" if row["analyzed"] else "and it was never analyzed"
        statement = f"analyze {row['name']}"
        yield (
            Level.WARNING,
            f"{row['changed']:,} rows of {row['name']} changed {since}",
            f"{statement};   -- or: farebox maintain",
            (statement,),
        )


@check(
    "dead rows",
    why="Dead rows make tables and indexes grow and every scan slower; vacuum takes them away unless something holds it back.",
    good="dead rows are few",
    needs_schema=True,
)
def _dead_rows(context: Context) -> Iterator[Found]:
    limits = context.thresholds
    rows = context.rows(
        """
        select s.relid::regclass::text as name, s.n_dead_tup as dead, s.n_live_tup as live
        from pg_stat_user_tables as s where s.schemaname = 'farebox' order by s.relname
        """
    )
    for row in rows:
        if row["dead"] > max(limits.dead_rows_least, limits.dead_rows_share * row["live"]):
            statement = f"vacuum (analyze) {row['name']}"
            yield (
                Level.WARNING,
                f"{row['dead']:,} dead rows in {row['name']}, {row['live']:,} live ones",
                f"{statement};   -- if they stay, look at what the check `snapshots` says",
                (statement,),
            )


@check(
    "bloat",
    why="Space that vacuum freed but nothing fills again is read and cached all the same.",
    good="tables and indexes are not much larger than what is in them",
    needs_schema=True,
)
def _bloat(context: Context) -> Iterator[Found]:
    limits = context.thresholds
    rows = context.rows("select * from farebox.metrics_storage() where metric = 'farebox_bloat_ratio'")
    sizes = {
        (row["labels"].get("shard"), row["labels"]["relation"]): row["value"]
        for row in context.rows(
            "select * from farebox.metrics_storage() where metric = 'farebox_relation_bytes'"
        )
    }
    for row in rows:
        name, is_index = row["labels"]["relation"], row["labels"]["kind"] == "index"
        shard = row["labels"].get("shard")  # where this is a router
        # An estimate, from statistics: small relations and small shares are noise.
        if row["value"] < limits.bloat_share or sizes.get((shard, name), 0) < limits.bloat_bytes:
            continue
        fix = (
            f"reindex index concurrently farebox.{name};"
            if is_index
            else f"vacuum (full, analyze) farebox.{name}; -- locks the table: stop selling first, or use pg_repack"
        )
        where = f" on shard {shard}" if shard else ""
        yield Level.WARNING, f"about {row['value']:.0%} of farebox.{name}{where} is empty space", fix


@check(
    "counting",
    why="Duplicates, conflicts and retries write nothing; they are counted by reading the marks of one small table, "
    "and the alerts go by these counters.",
    good="duplicates, conflicts and retries are counted",
    needs_schema=True,
)
def _counting(context: Context) -> Iterator[Found]:
    if context.part is Part.ROUTER:  # its shards count
        return
    # By its size, which any login may ask for.
    if context.row("select pg_relation_size(to_regclass('farebox.tally')) = 0 as empty")["empty"]:
        columns = "duplicates, conflicts, rejections, retries, given_up"
        statement = (
            f"insert into farebox.tally ({columns}) select n, n, n, n, n from generate_series(1, 200) as n"
            " on conflict do nothing"
        )
        yield Level.WARNING, "the table farebox.tally has lost its marks", f"{statement};", (statement,)
