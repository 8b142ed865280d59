"""Removes the rows of a partition where it does not live: the source after a move, the target after an abort.

In chunks, each a transaction of its own, so that nobody waits and a run that died goes on. The guards of the
core are passed on purpose: routes go after the tickets that name them, and codes are set to no use first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final
from uuid import UUID

import psycopg

from farebox.errors import MigrationError
from farebox.shards._handover import companies_of

Connection = psycopg.Connection[Any]

CHUNK: Final = 5_000

_DIGEST: Final = (
    "select count(*), coalesce(bit_xor(('x' || left(md5(row(t.id, t.company_id, t.route_id,"
    " t.payment_code_id, t.amount, t.created_at, t.commission_rate, t.monime_transaction_id,"
    " t.passenger_phone, t.monime_otp,"
    " {record})::text), 16))::bit(64)), 0::bit(64))"
    " from farebox.tickets as t {join} farebox.transactions as x on x.ticket_id = t.id"
    " where t.id = any (%s)"
)
_WITH_RECORD: Final = _DIGEST.format(record="x.amount, x.commission, x.net_amount", join="join")
_TICKET_ALONE: Final = _DIGEST.format(record="null", join="left join")


def remove_left_behind(source: Connection, target: Connection, partition: int) -> Iterator[int]:
    """Deletes them on the source; yields how many so far. Each ticket with its record is found there first.

    Raises MigrationError where the target has not what would be deleted: then nothing of it is.
    """
    companies = companies_of(source, partition)
    removed = 0
    while ids := _tickets(source, companies):
        # A record that is missing on the source may have been written on the target since.
        recorded = [
            ticket
            for (ticket,) in source.execute(
                "select ticket_id from farebox.transactions where ticket_id = any (%s)", [ids]
            )
        ]
        for some, digest in ((recorded, _WITH_RECORD), (sorted(set(ids) - set(recorded)), _TICKET_ALONE)):
            if some:
                _find(source, target, some, digest)
        removed += _delete_tickets(source, ids)
        yield removed
    after = ""
    while True:
        claims = source.execute(
            "select subject, kind::text, company_id, number from farebox.claims"
            ' where subject >= %s collate "C" and farebox._partition_of(subject) = %s'
            " order by subject, kind limit %s",
            [after, partition, CHUNK],
        ).fetchall()
        if not claims:
            break
        columns = [list(column) for column in zip(*claims, strict=True)]
        [(found,)] = target.execute(
            "select count(*) from unnest(%s::text[], %s::text[], %s::uuid[], %s::int[])"
            " as m(subject, kind, company_id, number)"
            ' join farebox.claims as c on c.subject = m.subject collate "C" and c.kind = m.kind::"char"'
            " where c.number > m.number or c.number = m.number and c.company_id = m.company_id",
            columns,
        ).fetchall()
        if found != len(claims):
            raise _missing(f"{len(claims) - found} claims of the registry")
        removed += source.execute(
            "delete from farebox.claims as c using unnest(%s::text[], %s::text[]) as m(subject, kind)"
            ' where c.subject = m.subject collate "C" and c.kind = m.kind::"char"',
            columns[:2],
        ).rowcount
        after = columns[0][-1]
        yield removed
    yield removed + _delete_catalog(source, companies)


def remove_copy(target: Connection, partition: int, companies: list[UUID]) -> Iterator[int]:
    """Deletes on the target what was copied; `companies` as the source has them. Yields how many so far."""
    removed = 0
    while ids := _tickets(target, companies):
        removed += _delete_tickets(target, ids)
        yield removed
    # Records whose tickets had not come yet: they have no index by company, and nobody waits for these rows.
    removed += target.execute(
        "delete from farebox.transactions where company_id = any (%s)", [companies]
    ).rowcount
    removed += target.execute(
        "delete from farebox.claims where farebox._partition_of(subject) = %s", [partition]
    ).rowcount
    yield removed + _delete_catalog(target, companies)
    target.execute("delete from farebox.stray_partitions where partition = %s", [partition])


def _tickets(conn: Connection, companies: list[UUID]) -> list[UUID]:
    rows = conn.execute(
        "select id from farebox.tickets where company_id = any (%s) limit %s", [companies, CHUNK]
    )
    return [ticket for (ticket,) in rows]


def _find(source: Connection, target: Connection, ids: list[UUID], digest: str) -> None:
    here, there = (conn.execute(digest.encode(), [ids]).fetchall()[0] for conn in (source, target))
    if here != there:
        raise _missing(
            f"tickets or their records ({here[0]} on the source, {there[0]} of them on the target)"
        )


def _delete_tickets(conn: Connection, ids: list[UUID]) -> int:
    with conn.transaction():
        conn.execute("delete from farebox.transactions where ticket_id = any (%s)", [ids])
        return conn.execute("delete from farebox.tickets where id = any (%s)", [ids]).rowcount


def _delete_catalog(conn: Connection, companies: list[UUID]) -> int:
    """Codes, routes, notes of the registry and companies, of which nothing is sold here any more."""
    removed = 0
    with conn.transaction():
        conn.execute(
            "update farebox.payment_codes set used_tickets = 0 where company_id = any (%s)", [companies]
        )
        for table, column in (
            ("payment_codes", "company_id"),
            ("routes", "company_id"),
            ("foreign_subjects", "company_id"),
            ("companies", "id"),
        ):
            removed += conn.execute(
                f"delete from farebox.{table} where {column} = any (%s)".encode(), [companies]
            ).rowcount
    return removed


def _missing(what: str) -> MigrationError:
    return MigrationError(
        f"the target has not the same as the source: {what}",
        hint="They stay on the source, where nobody counts them. Compare by hand, delete, and run it again.",
    )
