"""`growth`: the rate at growing sizes of the table, by turns with an empty database on the same server."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from farebox.bench.contest import Connection, Contender, Crew, compete, creating
from farebox.bench.creating import Load, Tell
from farebox.bench.payments import FARE, Seller, new_batches, open_companies, texts
from farebox.bench.place import Place, connect
from farebox.bench.report import Report
from farebox.errors import UsageError

_COMPANIES: Final = 10
_CHUNK: Final = 50_000

# What create_tickets would have left behind, at the speed of the server: ids, payments and phones as there.
_FILL: Final = """
with places as materialized (
  select row_number() over () - 1 as place, r.company_id, r.id as route_id, c.commission_rate
  from farebox.routes as r join farebox.companies as c on c.id = r.company_id
), made as (
  insert into farebox.tickets (id, company_id, route_id, amount, created_at, commission_rate,
    monime_transaction_id, passenger_phone, monime_otp)
  select farebox._uuid_v7(), p.company_id, p.route_id, %(fare)s, farebox._now(), p.commission_rate,
    'pay-' || replace(gen_random_uuid()::text, '-', ''),
    '+23276' || lpad((random() * 999999)::int::text, 6, '0'),
    lpad((random() * 999999)::int::text, 6, '0')
  from generate_series(1, %(rows)s) as n
  join places as p on p.place = n %% (select count(*) from places)
  returning id, company_id, amount, commission_rate, created_at
)
insert into farebox.transactions (ticket_id, company_id, amount, commission, net_amount, created_at)
select id, company_id, amount, farebox._commission(amount, commission_rate),
  amount - farebox._commission(amount, commission_rate), created_at
from made
"""


def growth(
    place: Place, load: Load, tell: Tell, *, sizes: Sequence[int], never_analysed: bool = False
) -> Report:
    """At each of the sizes, `create_tickets` there and in a new, empty database, by turns.

    With `never_analysed` also in a third one as full, whose statistics nobody has gathered.
    """
    if place.is_guest:
        raise UsageError(
            "growth compares databases of its own, and this login may not create any",
            hint="Let a superuser run: alter role ... createdb",
        )
    load = load.whole()
    report = Report("growth", {**asdict(load), "duplicate_share": 0.0, "sizes": list(sizes)})
    grown = Grown(place, place.dsn)
    raw = Grown(place, place.another(), is_analysed=False) if never_analysed else None
    for size in sizes:
        grown.fill(size, load.connections)
        empty = place.another()
        contenders: list[Contender[Any]] = [
            _creating(f"empty, beside {size:,}", empty, open_companies(empty, _COMPANIES), load),
            _creating(f"at {size:,}", grown.dsn, grown.sellers, load),
        ]
        if raw is not None:
            raw.fill(size, load.connections)
            contenders.append(_creating(f"at {size:,}, never analysed", raw.dsn, raw.sellers, load))
        stage = Report("growth", report.parameters, base=contenders[0].name)
        compete(stage, place.dsn, contenders, connections=load.connections, rounds=load.rounds, tell=tell)
        grown.tickets += contenders[1].outcomes["created"]
        stage.verify(empty, tickets=contenders[0].outcomes["created"])
        stage.verify(grown.dsn, tickets=grown.tickets)
        if raw is not None:
            raw.tickets += contenders[2].outcomes["created"]
            stage.verify(raw.dsn, tickets=raw.tickets)
            analysed = stage.lines[1]
            stage.facts[f"never analysed over analysed, at {size:,}"] = _over(
                stage.lines[2].rates, analysed.rates
            )
        _take_over(report, stage)
        for line, name in zip(stage.lines, ("empty", "grown", "never analysed"), strict=False):
            report.by_size.setdefault(name, []).append((size, line.rate))
        place.drop(empty)
    return report


def _over(rates: Sequence[float], base: Sequence[float]) -> float:
    return round(statistics.median(one / other for one, other in zip(rates, base, strict=True)), 4)


def _take_over(report: Report, stage: Report) -> None:
    report.lines += stage.lines
    report.latencies |= stage.latencies
    report.facts |= stage.facts
    report.checks += stage.checks
    report.violations += stage.violations


def _creating(name: str, dsn: str, sellers: Sequence[Seller], load: Load) -> Contender[str]:
    return creating(name, lambda: texts(new_batches(sellers, load.rows, load.batch)), load.rows, dsn=dsn)


class Grown:
    """A database that is filled by the server itself."""

    def __init__(self, place: Place, dsn: str, *, is_analysed: bool = True) -> None:
        self._place = place
        self._is_analysed = is_analysed
        self.dsn = dsn
        self.sellers = open_companies(dsn, _COMPANIES)
        self.tickets = 0
        if not is_analysed:
            with connect(dsn) as conn:
                conn.execute("alter table farebox.tickets set (autovacuum_enabled = off)")
                conn.execute("alter table farebox.transactions set (autovacuum_enabled = off)")

    def fill(self, size: int, connections: int) -> None:
        """As far as so many are missing."""
        chunks = [min(_CHUNK, size - start) for start in range(self.tickets, size, _CHUNK)]
        with Crew(self.dsn, connections) as crew:
            crew.run(chunks, _fill)
        self.tickets = max(self.tickets, size)
        if self._is_analysed:
            with connect(self.dsn) as conn:
                conn.execute("vacuum analyze")


def _fill(conn: Connection, rows: int) -> Counter[str]:
    conn.execute(_FILL, {"rows": rows, "fare": FARE})
    return Counter()
