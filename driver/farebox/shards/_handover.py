"""The fence of a move: nobody writes to the partition, what is small is handed over, both sides are compared.

The queue, dead requests, pauses, unapplied payments, bindings of logins and notes of the registry are copied
here and not replicated: their rows are few, some of them need another form on the target (a place in its own
line), and some may meet a row of the same payment there and become one with it. Queued requests keep their
ids, which are unique over all shards: whoever waits for one goes on waiting for it.
"""

from __future__ import annotations

from typing import Any, Final, LiteralString
from uuid import UUID

import psycopg
from psycopg import sql

from farebox.errors import TransientError
from farebox.shards._replication import briefly

Connection = psycopg.Connection[Any]

# By its company, where it names one: nearly all do, and reading the request takes ten times as long.
_OF_REQUEST: Final[LiteralString] = (
    "case when r.company_id <> '00000000-0000-0000-0000-000000000000'"
    " then farebox._partition_of(r.company_id::text)"
    " else farebox._partition_of_request(r.company_id, r.request) end = {p}"
)
_OF_PAYMENT: Final[LiteralString] = (
    "case when r.ticket_id is null and r.company_id is not null"
    " then farebox._partition_of(r.company_id::text)"
    " else farebox._partition_of_payment(r.*) end = {p}"
)
# What is handed over: the table, its key, and how to tell that a row is of the partition.
_SMALL: Final[tuple[tuple[LiteralString, LiteralString, LiteralString], ...]] = (
    ("ticket_queue", "id", _OF_REQUEST),
    ("ticket_queue_dead", "id", _OF_REQUEST),
    ("ticket_queue_pauses", "company_id", "farebox._partition_of(r.company_id::text) = {p}"),
    ("unapplied_payments", "monime_transaction_id", _OF_PAYMENT),
    ("company_logins", "login", "farebox._partition_of(r.company_id::text) = {p}"),
)

# How the rows that came (in temporary tables of the same names) become rows of the target. A row that is
# there already is the same one, from a run that died, or of the same payment or request, kept on both shards.
_RECEIVE: Final[tuple[LiteralString, ...]] = (
    # Behind the floor, each company's in its own order, as resume_company_queue does.
    """
    insert into farebox.ticket_queue (id, rank, enqueued_at, ready_at, company_id, attempts, together, reason,
      request)
    select q.id,
      case when q.rank is not null then f.floor
        + row_number() over (partition by q.company_id, q.rank is null order by q.rank, q.id) end,
      q.enqueued_at, q.ready_at, q.company_id, q.attempts, q.together, q.reason, q.request
    from pg_temp.ticket_queue as q cross join (select farebox._hold_queue_floor() as floor) as f
    on conflict (id) do nothing
    """,
    """
    insert into farebox.ticket_queue_dead as d
    select m.* from pg_temp.ticket_queue_dead as m
    where not exists (select from farebox.ticket_queue_dead as k where k.id = m.id)
    on conflict (fingerprint, reason) do update set
      times = d.times + excluded.times,
      first_seen_at = least(d.first_seen_at, excluded.first_seen_at),
      last_seen_at = greatest(d.last_seen_at, excluded.last_seen_at)
    """,
    """
    insert into farebox.ticket_queue_pauses select m.* from pg_temp.ticket_queue_pauses as m
    on conflict (company_id) do nothing
    """,
    """
    insert into farebox.unapplied_payments as u
    select m.* from pg_temp.unapplied_payments as m
    on conflict (monime_transaction_id) do update set
      company_id = case when u.company_id = excluded.company_id then u.company_id end,
      request = case when u.last_seen_at < excluded.last_seen_at then excluded.request else u.request end,
      reason = case when u.last_seen_at < excluded.last_seen_at and excluded.reason is not null
        then excluded.reason else coalesce(u.reason, excluded.reason) end,
      first_seen_at = least(u.first_seen_at, excluded.first_seen_at),
      last_seen_at = greatest(u.last_seen_at, excluded.last_seen_at),
      attempts = u.attempts + excluded.attempts,
      earlier_requests = (
        array[case when u.last_seen_at < excluded.last_seen_at then u.request else excluded.request end]
        || u.earlier_requests || excluded.earlier_requests)[1:9],
      resolved_at = coalesce(u.resolved_at, excluded.resolved_at),
      ticket_id = coalesce(u.ticket_id, excluded.ticket_id)
    where (u.first_seen_at, u.last_seen_at, u.attempts, u.request::text) is distinct from
      (excluded.first_seen_at, excluded.last_seen_at, excluded.attempts, excluded.request::text)
    """,
    """
    insert into farebox.company_logins select m.* from pg_temp.company_logins as m
    on conflict (login) do nothing
    """,
)

_SIDES: Final[tuple[tuple[str, LiteralString], ...]] = (
    ("companies", "farebox.companies as r where r.id = any ({c})"),
    ("routes", "farebox.routes as r where r.company_id = any ({c})"),
    ("payment_codes", "farebox.payment_codes as r where r.company_id = any ({c})"),
)
# All four statuses named, so that the index on company, status and time serves.
_TICKETS: Final[LiteralString] = (
    "farebox.tickets as r where r.company_id = any ({c})"
    " and r.status = any ('{{pending,used,expired,cancelled}}') and r.created_at"
)


class SmallRows:
    """The small rows of a partition, locked on the source by a transaction of `conn` until `remove`."""

    def __init__(self, conn: Connection, partition: int) -> None:
        self.conn = conn
        self.partition = partition
        self.count = 0

    def lock(self) -> int:
        """Takes them; how many there are. In the caller's transaction."""
        self.count = 0
        for table, key, condition in _SMALL:
            self.conn.execute(
                sql.SQL(
                    "create temporary table {0} on commit drop as select r.* from farebox.{0} as r"
                    " where " + condition + " order by r.{1} for update"
                ).format(sql.Identifier(table), sql.Identifier(key), p=sql.Literal(self.partition))
            )
            [(count,)] = self.conn.execute(
                sql.SQL("select count(*) from pg_temp.{}").format(sql.Identifier(table))
            ).fetchall()
            self.count += count
        return self.count

    def bring(self, target: Connection) -> None:
        """Copies them into the target, in the caller's transaction there."""
        for table, _, _ in _SMALL:
            target.execute(
                sql.SQL(
                    "create temporary table {0} on commit drop as select r.* from farebox.{0} as r limit 0"
                ).format(sql.Identifier(table))
            )
            [(columns,)] = self.conn.execute(
                "select array_agg(attname::text order by attname) from pg_attribute"
                " where attrelid = %s::regclass and attnum > 0 and not attisdropped",
                [f"farebox.{table}"],
            ).fetchall()
            names = sql.SQL(", ").join(map(sql.Identifier, columns))
            parts = {"table": sql.Identifier(table), "names": names}
            with (
                self.conn.cursor().copy(
                    sql.SQL("copy pg_temp.{table} ({names}) to stdout").format(**parts)
                ) as rows,
                target.cursor().copy(
                    sql.SQL("copy pg_temp.{table} ({names}) from stdin").format(**parts)
                ) as into,
            ):
                for block in rows:
                    into.write(block)
        for statement in _RECEIVE:
            target.execute(statement)

    def remove(self) -> None:
        """Deletes them on the source, in the transaction that has locked them."""
        for table, key, _ in _SMALL:
            self.conn.execute(
                sql.SQL("delete from farebox.{0} as r using pg_temp.{0} as m where r.{1} = m.{1}").format(
                    sql.Identifier(table), sql.Identifier(key)
                )
            )


def count_small(source: Connection, partition: int) -> int:
    """How many small rows the partition has now; they are not locked."""
    counts = sql.SQL(" union all ").join(
        sql.SQL("select count(*) as n from farebox.{} as r where " + condition).format(
            sql.Identifier(table), p=sql.Literal(partition)
        )
        for table, _, condition in _SMALL
    )
    [(count,)] = source.execute(sql.SQL("select sum(c.n)::bigint from ({}) as c").format(counts)).fetchall()
    return int(count)


def fence(source: Connection, partition: int, seconds: float) -> None:
    """Nobody writes to the partition from now on, for so long at most; whoever was writing has committed.

    The lock waits for everybody who is in the middle of a batch on that shard: without it a batch that has
    asked before would commit after the last look at the log. Raises TransientError.
    """

    def close() -> None:
        source.execute("lock table farebox.own_partitions in exclusive mode")
        source.execute(
            "update farebox.own_partitions set fenced_until = clock_timestamp() + make_interval(secs => %s)"
            " where partition = %s and is_open",
            [seconds, partition],
        )

    briefly(source, close, "the shard's list of partitions")


def reopen(source: Connection, partition: int) -> None:
    """The fence is over, nothing has changed. Only where the target was never opened."""
    source.execute(
        "update farebox.own_partitions set is_open = true, fenced_until = null where partition = %s",
        [partition],
    )


def close_for_good(source: Connection, partition: int) -> bool:
    """The fence becomes a wall; False if its time was over already: then somebody may have written.

    Under the same lock as `fence`: whoever saw the fence's time over has committed by then, and whoever
    comes later sees the wall.
    """
    closed: list[bool] = []

    def close() -> None:
        source.execute("lock table farebox.own_partitions in exclusive mode")
        cursor = source.execute(
            "update farebox.own_partitions set is_open = false, fenced_until = null"
            " where partition = %s and is_open and fenced_until > clock_timestamp()",
            [partition],
        )
        closed.append(cursor.rowcount == 1)

    briefly(source, close, "the shard's list of partitions", attempts=3)
    return closed[-1]


def companies_of(conn: Connection, partition: int) -> list[UUID]:
    """The companies of a partition that are there."""
    rows = conn.execute(
        "select id from farebox.companies where farebox._partition_of(id::text) = %s order by id",
        [partition],
    )
    return [company for (company,) in rows]


def compare_settled(source: Connection, target: Connection, companies: list[UUID], before: Any) -> str | None:
    """Compares the tickets made before that time, without their status; what differs, or None.

    Reads all of them on both sides, so it comes before the fence.
    """
    columns = _columns(source, "tickets") - {"status"}
    return _differing(
        source,
        target,
        companies,
        [("tickets", _TICKETS + " < {t}", columns)],
        before,
    )


def compare(source: Connection, target: Connection, companies: list[UUID], since: Any) -> str | None:
    """Compares what nobody can change now: the catalog, and number and amount of the tickets since that time.

    Not field by field, for everybody waits; that comes before a ticket is deleted on the source.
    """
    differs = _differing(
        source, target, companies, [(table, rows, _columns(source, table)) for table, rows in _SIDES], since
    )
    if differs is not None:
        return differs
    recent = sql.SQL("select count(*), coalesce(sum(r.amount), 0) from " + _TICKETS + " >= {t}").format(
        c=sql.SQL("{}::uuid[]").format(sql.Literal(companies)),
        t=sql.SQL("{}::timestamptz").format(sql.Literal(since)),
    )
    here, there = (conn.execute(recent).fetchall()[0] for conn in (source, target))
    if here != there:
        return (
            f"tickets: {here[0]} of {here[1]} on the source, {there[0]} of {there[1]} on the target, lately"
        )
    return None


def _differing(
    source: Connection,
    target: Connection,
    companies: list[UUID],
    parts: list[tuple[str, LiteralString, set[str]]],
    time: Any,
) -> str | None:
    for table, rows, columns in parts:
        statement = sql.SQL(
            "select count(*), coalesce("
            "bit_xor(('x' || left(md5(row({columns})::text), 16))::bit(64)), 0::bit(64))"
            " from " + rows
        ).format(
            columns=sql.SQL(", ").join(sql.Identifier("r", column) for column in sorted(columns)),
            c=sql.SQL("{}::uuid[]").format(sql.Literal(companies)),
            t=sql.SQL("{}::timestamptz").format(sql.Literal(time)),
        )
        here, there = (conn.execute(statement).fetchall()[0] for conn in (source, target))
        if here != there:
            return f"{table}: {here[0]} rows on the source, {there[0]} on the target" + (
                ", and not the same" if here[0] == there[0] else ""
            )
    return None


def _columns(conn: Connection, table: str) -> set[str]:
    rows = conn.execute(
        "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0 and not attisdropped",
        [f"farebox.{table}"],
    )
    return {str(name) for (name,) in rows}


def bring_notes(source: Connection, target: Connection, partition: int) -> None:
    """What companies that move gave up to others is void on the target too, in its transaction.

    Of an earlier stay there may be older notes, which count no more.
    """
    own: LiteralString = "farebox.foreign_subjects as f where farebox._partition_of(f.company_id::text) = %s"
    target.execute("delete from " + own, [partition])
    notes = source.execute(
        "select f.kind::text, f.subject, f.company_id, f.number, f.since from " + own, [partition]
    ).fetchall()
    if notes:
        target.execute(
            "insert into farebox.foreign_subjects (kind, subject, company_id, number, since)"
            ' select n.kind::"char", n.subject, n.company_id, n.number, n.since'
            " from unnest(%s::text[], %s::text[], %s::uuid[], %s::int[], %s::timestamptz[])"
            " as n(kind, subject, company_id, number, since)",
            [list(column) for column in zip(*notes, strict=True)],
        )


def open_target(target: Connection, partition: int) -> None:
    """The partition lives on the target from now on, once the caller's transaction has committed."""
    target.execute("delete from farebox.stray_partitions where partition = %s", [partition])
    target.execute(
        "insert into farebox.own_partitions (partition) values (%s)"
        " on conflict (partition) do update set is_open = true, fenced_until = null",
        [partition],
    )


def is_on_target(target: Connection, partition: int) -> bool:
    """Whether the target has been opened. Waits for a commit of a mover that died in the middle of it."""
    found: list[bool] = []

    def look() -> None:
        target.execute("lock table farebox.own_partitions in share row exclusive mode")
        found.append(
            bool(
                target.execute(
                    "select from farebox.own_partitions where partition = %s", [partition]
                ).rowcount
            )
        )

    briefly(target, look, "the target's list of partitions")
    return found[-1]


def over_time(seconds: float, why: str, *, is_walled: bool = False) -> TransientError:
    """The fence opened again; the move can be tried again. Behind a wall it must be: nobody sells there."""
    if is_walled:
        return TransientError(
            f"an earlier run has closed the partition, and {why}; it is still closed",
            hint="Run the same command again: it goes on here. Or take the move back with --abort.",
        )
    return TransientError(
        f"the partition was closed for {seconds:g} s and {why}; it is open again, and nothing has changed",
        hint="Run the same command again, at a quieter time or with a longer --fence-seconds.",
    )
