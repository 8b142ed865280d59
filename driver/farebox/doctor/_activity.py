# ruff: noqa: E501, ISC003, ISC004 - sentences and SQL stay in one piece
"""Checks of what the sessions are doing right now: old transactions, locks, slow batches."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Final

from farebox.doctor._finding import Context, Found, Level, check


def _ends(pid: int, state: str | None = None) -> str:
    """SQL that ends a session; of one that is at work it says what must not be ended."""
    wanted = " -- unless it is a backup, a migration or a report: let that end" if state == "active" else ""
    return f"select pg_terminate_backend({pid});{wanted}"


_AS_DECIDED: Final = "-- or commit prepared, as its coordinator decided"


@check(
    "transactions",
    why="An old transaction keeps its locks, and keeps vacuum from removing any row that died since it began.",
    good="no transaction is old or idle",
)
def _transactions(context: Context) -> Iterator[Found]:
    limits = context.thresholds
    rows = context.rows(
        """
        select a.pid, coalesce(a.usename, '?') as login, a.application_name as program, a.state,
          now() - a.xact_start as age, clock_timestamp() - a.state_change as since
        from pg_stat_activity as a
        where a.backend_type = 'client backend' and a.xact_start is not null and a.pid <> pg_backend_pid()
        order by a.xact_start
        """
    )
    for row in rows:
        who = f"{row['login']} ({row['program'] or 'no name'}, pid {row['pid']})"
        if row["age"] >= limits.transaction_warning:
            level = Level.PROBLEM if row["age"] >= limits.transaction_problem else Level.WARNING
            yield (
                level,
                f"a transaction of {who} has been open for {_shown(row['age'])}, now {row['state']}",
                _ends(row["pid"], row["state"]),
            )
        elif (
            str(row["state"]).startswith("idle in transaction") and row["since"] >= limits.idle_in_transaction
        ):
            yield (
                Level.WARNING,
                f"a transaction of {who} has been idle for {_shown(row['since'])}",
                f"{_ends(row['pid'])} -- and for the next time: "
                "alter system set idle_in_transaction_session_timeout = '1min'; select pg_reload_conf();",
            )


@check(
    "prepared transactions",
    why="One that nobody finishes keeps its locks and holds back vacuum for ever, also over a restart.",
    good="no prepared transaction is left over",
)
def _prepared_transactions(context: Context) -> Iterator[Found]:
    rows = context.rows(
        """
        select quote_literal(gid) as gid, owner, now() - prepared as age
        from pg_prepared_xacts where database = current_database() order by prepared
        """
    )
    for row in rows:
        yield (
            Level.PROBLEM if row["age"] >= context.thresholds.transaction_warning else Level.WARNING,
            f"{row['owner']} prepared the transaction {row['gid']} {_shown(row['age'])} ago and did not finish it",
            f"rollback prepared {row['gid']}; {_AS_DECIDED}",
        )


@check(
    "snapshots",
    why="Vacuum removes nothing that the oldest snapshot could still see: the queue's tables bloat, and it slows down.",
    good="no old snapshot holds back vacuum",
)
def _snapshots(context: Context) -> Iterator[Found]:
    rows = context.rows(
        """
        select 'pid ' || pid || ' of ' || coalesce(usename, '?') as who, age(backend_xmin) as age, pid, state,
          case backend_type when 'walsender' then 'on the standby ' || application_name || ': end its old transactions' end as fix
        from pg_stat_activity
        -- Vacuum itself holds nobody back.
        where backend_xmin is not null and pid <> pg_backend_pid() and backend_type <> 'autovacuum worker'
        union all
        select 'replication slot ' || slot_name, greatest(age(xmin), age(catalog_xmin)), null, null,
          format('select pg_drop_replication_slot(%%L); -- if its reader is gone for good', slot_name)
        from pg_replication_slots where xmin is not null or catalog_xmin is not null
        union all
        select 'prepared transaction ' || gid, age(transaction), null, null,
          format('rollback prepared %%L; ', gid) || %(as_decided)s
        from pg_prepared_xacts
        order by 2 desc
        """,
        {"as_decided": _AS_DECIDED},
    )
    for row in rows:
        if row["age"] >= context.thresholds.snapshot_age_warning:
            yield (
                Level.WARNING,
                f"{row['who']} holds a snapshot that is {row['age']:,} transactions old",
                row["fix"] or _ends(row["pid"], row["state"]),
            )


@check(
    "locks",
    why="Whoever waits for a lock does nothing else; a queue of waiters behind one sleeper stops the whole service.",
    good="nobody waits for a lock",
)
def _locks(context: Context) -> Iterator[Found]:
    rows = context.rows(
        """
        select w.pid, coalesce(w.usename, '?') as login, blocking.pid as blocker, coalesce(b.usename, '?') as blocker_login,
          coalesce(b.application_name, '') as blocker_program, b.state as blocker_state,
          clock_timestamp() - coalesce(l.since, w.state_change) as waited, coalesce(l.what, 'a lock') as what,
          cardinality(pg_blocking_pids(b.pid)) = 0 as is_root
        from pg_stat_activity as w
        cross join lateral unnest(pg_blocking_pids(w.pid)) as blocking (pid)
        left join pg_stat_activity as b on b.pid = blocking.pid
        left join lateral (
          select k.waitstart as since, k.mode || coalesce(' on ' || k.relation::regclass::text, ' on ' || k.locktype) as what
          from pg_locks as k where k.pid = w.pid and not k.granted limit 1) as l on true
        where w.wait_event_type = 'Lock'
        order by waited desc, w.pid, b.pid
        """
    )
    for row in rows:
        if row["blocker"] == 0:
            blocker, fix = "a prepared transaction", "what the check `prepared transactions` says"
        else:
            blocker = f"pid {row['blocker']} of {row['blocker_login']} ({row['blocker_program'] or 'no name'}, {row['blocker_state']})"
            fix = _lets_go(row["blocker"], row["blocker_state"], is_root=row["is_root"])
        yield (
            Level.PROBLEM if row["waited"] >= context.thresholds.blocked_problem else Level.WARNING,
            f"pid {row['pid']} of {row['login']} has waited {_shown(row['waited'])} for {row['what']}, held by {blocker}",
            fix,
        )


def _lets_go(pid: int, state: str | None, *, is_root: bool) -> str:
    """What makes a session give up its lock."""
    if not is_root:
        return f"first what pid {pid} itself waits for"
    # Whoever sells waits for others all the time, for milliseconds.
    return (
        f"nothing while that one works; if it stays: {_ends(pid, state)}" if state == "active" else _ends(pid)
    )


@check(
    "slow batches",
    why="A batch of 100 takes some ten milliseconds. Seconds mean that it waits for a lock or the disk, or that a plan is wrong.",
    good="no batch is slow",
)
def _slow_batches(context: Context) -> Iterator[Found]:
    limits = context.thresholds
    rows = context.rows(
        """
        select pid, clock_timestamp() - query_start as age,
          coalesce(wait_event_type || '/' || wait_event, 'the processor') as waits_for
        from pg_stat_activity
        where state = 'active' and datname = current_database() and pid <> pg_backend_pid()
          and query ~* 'farebox\\.(create_tickets?|process_ticket_queue|apply_unapplied_payments)\\M'
        order by query_start
        """
    )
    for row in rows:
        if row["age"] >= limits.batch_warning:
            yield (
                Level.PROBLEM if row["age"] >= limits.batch_problem else Level.WARNING,
                f"pid {row['pid']} has been at a batch for {_shown(row['age'])}, on {row['waits_for']}",
                "what the checks `locks`, `memory` and `dead rows` say; smaller batches; in the last resort: "
                + f"select pg_cancel_backend({row['pid']});",
            )
    installed = context.rows(
        """
        select n.nspname as schema from pg_extension as e join pg_namespace as n on n.oid = e.extnamespace
        where e.extname = 'pg_stat_statements' and current_setting('shared_preload_libraries') like '%pg_stat_statements%'
        """
    )
    for schema in installed:
        rows = context.rows(
            f"""
            select calls, mean_exec_time * interval '1 ms' as mean, max_exec_time * interval '1 ms' as longest, left(query, 80) as query
            from "{schema["schema"]}".pg_stat_statements
            where dbid = (select oid from pg_database where datname = current_database())
              and query ~* '^ *select.*farebox\\.(create_tickets?|process_ticket_queue)\\M'
            """
        )
        for row in rows:
            if row["mean"] >= limits.batch_warning:
                yield (
                    Level.PROBLEM if row["mean"] >= limits.batch_problem else Level.WARNING,
                    f"{row['calls']:,} calls took {_shown(row['mean'])} each, the longest {_shown(row['longest'])}: {row['query']}",
                    "what the checks `locks`, `memory` and `dead rows` say; smaller batches",
                )


def _shown(age: timedelta) -> str:
    seconds = age.total_seconds()
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
