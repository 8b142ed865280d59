"""`create`, `duplicates`, `conflict-mix`, `hot-code`, `many-companies`: `create_tickets` in batches."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from farebox.bench.contest import Contender, compete, creating
from farebox.bench.floor import FLOOR, LEAN, floors
from farebox.bench.payments import Payment, Seller, new_batches, open_companies, texts
from farebox.bench.place import Place, connect
from farebox.bench.report import Check, Report

Tell = Callable[[int], None]

CREATES: Final = "create_tickets"
_COMPANIES: Final = 10


@dataclass(frozen=True, slots=True)
class Load:
    """How much at once: elements a call, connections, elements of each contender in a round, rounds."""

    batch: int = 100
    connections: int = 1
    rows: int = 5_000
    rounds: int = 20
    floor: bool = False

    def whole(self) -> Load:
        """With as many rows as full batches hold, one at least."""
        full = max(self.rows // self.batch, 1) * self.batch
        return Load(self.batch, self.connections, full, self.rounds, self.floor)


def create(place: Place, load: Load, tell: Tell, *, coded: float = 0.0) -> Report:
    """New payments; with `coded`, beside as many of which that share carries a payment code."""
    load = load.whole()
    sellers = open_companies(place.dsn, _COMPANIES)
    contenders = [_new(CREATES, sellers, load)]
    if coded:
        contenders.append(_new(f"{coded:.0%} with codes", sellers, load, coded=coded))
    return _run("create", place, load, contenders, sellers, tell, coded=coded, companies=len(sellers))


def duplicates(place: Place, load: Load, tell: Tell, *, share: float = 1.0) -> Report:
    """New payments; then the same ones again, and with a `share` below 1 so many again among new ones."""
    load = load.whole()
    sellers = open_companies(place.dsn, _COMPANIES)
    sold = _Sold(sellers, load)
    contenders = [
        creating(CREATES, sold.new, load.rows),
        creating("duplicates only", sold.again, load.rows, {"duplicate": load.rows}),
    ]
    if share < 1:
        count = round(load.batch * share) * (load.rows // load.batch)
        contenders.append(
            creating(
                f"{share:.0%} duplicates",
                lambda: sold.among_new(round(load.batch * share)),
                load.rows,
                {"created": load.rows - count, "duplicate": count},
            )
        )
    return _run("duplicates", place, load, contenders, sellers, tell, duplicate_share=share)


def conflict_mix(place: Place, load: Load, tell: Tell) -> Report:
    """New payments; the same ones with another amount; and a quarter each of all four outcomes."""
    load = load.whole()
    sellers = open_companies(place.dsn, _COMPANIES)
    sold = _Sold(sellers, load)
    quarter = load.batch // 4
    batches = load.rows // load.batch
    mixed = dict.fromkeys(("duplicate", "conflict", "rejected"), quarter * batches)
    contenders = [
        creating(CREATES, sold.new, load.rows),
        creating("conflicts only", sold.changed, load.rows, {"conflict": load.rows}),
        creating(
            "a quarter each of created, duplicate, conflict, rejected",
            lambda: sold.mixed(quarter),
            load.rows,
            mixed | {"created": load.rows - 3 * quarter * batches},
        ),
    ]
    return _run("conflict-mix", place, load, contenders, sellers, tell, duplicate_share=0.25)


def hot_code(place: Place, load: Load, tell: Tell) -> Report:
    """New payments without a code; the same number, all on one code."""
    load = load.whole()
    sellers = open_companies(place.dsn, _COMPANIES)
    hot = sellers[:1]
    contenders = [
        _new(CREATES, sellers, load),
        _new("all of one company, no code", hot, load),
        _new("all on one code", hot, load, coded=1.0),
    ]
    report = _run("hot-code", place, load, contenders, sellers, tell)
    with connect(place.dsn) as conn:
        [(used,)] = conn.execute(
            "select used_tickets from farebox.payment_codes where code = %s", [hot[0].code]
        ).fetchall()
    report.checks.append(Check("uses of the hot code", contenders[2].outcomes["created"], used))
    return report


def many_companies(place: Place, load: Load, tell: Tell, *, counts: Sequence[int]) -> Report:
    """New payments of so many companies each time; compared with those of 10 where these are asked for."""
    load = load.whole()
    sellers = open_companies(place.dsn, max(counts))
    names = {count: f"{count:,} companies" for count in counts}
    contenders = [_new(names[count], sellers[:count], load) for count in counts]
    base = names.get(_COMPANIES, "")
    return _run("many-companies", place, load, contenders, sellers, tell, base=base, companies=list(counts))


def _new(name: str, sellers: Sequence[Seller], load: Load, *, coded: float = 0.0) -> Contender[str]:
    return creating(name, lambda: texts(new_batches(sellers, load.rows, load.batch, coded=coded)), load.rows)


def _run(
    scenario: str,
    place: Place,
    load: Load,
    contenders: list[Contender[str]],
    sellers: Sequence[Seller],
    tell: Tell,
    *,
    base: str = "",
    duplicate_share: float = 0.0,
    **parameters: object,
) -> Report:
    report = Report(scenario, {**asdict(load), "duplicate_share": duplicate_share, **parameters}, base=base)
    everybody: list[Contender[Any]] = [*contenders]
    if load.floor:
        everybody += floors(place.dsn, lambda: new_batches(sellers, load.rows, load.batch), load.rows)
    tickets = compete(
        report, place.dsn, everybody, connections=load.connections, rounds=load.rounds, tell=tell
    )
    if load.floor:
        rates = {line.name: line.rates for line in report.lines}
        own = rates[contenders[0].name]
        for name in (FLOOR, LEAN):
            ratios = [one / other for one, other in zip(own, rates[name], strict=True)]
            report.facts[f"{contenders[0].name} over {name}"] = round(statistics.median(ratios), 3)
    report.verify(place.dsn, tickets=tickets)
    return report


class _Sold:
    """New payments, and those that were new last."""

    def __init__(self, sellers: Sequence[Seller], load: Load) -> None:
        self._sellers = sellers
        self._load = load
        self._last: list[list[Payment]] = []

    def _batches(self) -> list[list[Payment]]:
        return new_batches(self._sellers, self._load.rows, self._load.batch)

    def new(self) -> list[str]:
        self._last = self._batches()
        return texts(self._last)

    def again(self) -> list[str]:
        return texts(self._last)

    def changed(self) -> list[str]:
        return texts([[_dearer(payment) for payment in batch] for batch in self._last])

    def among_new(self, count: int) -> list[str]:
        """Batches in which so many are old, anywhere among the new ones."""
        return texts(
            [
                _shuffled(old[:count] + new[count:])
                for old, new in zip(self._last, self._batches(), strict=True)
            ]
        )

    def mixed(self, quarter: int) -> list[str]:
        """Batches with so many old ones, changed ones and masked ones, the rest new; in any order."""
        mixed: list[list[Payment]] = []
        for old, new in zip(self._last, self._batches(), strict=True):
            changed = [_dearer(payment) for payment in old[quarter : 2 * quarter]]
            masked = [
                payment | {"passenger_phone": "+23276***"} for payment in new[2 * quarter : 3 * quarter]
            ]
            mixed.append(_shuffled(old[:quarter] + changed + masked + new[3 * quarter :]))
        return texts(mixed)


def _dearer(payment: Payment) -> Payment:
    return payment | {"amount": payment["amount"] + 1000}


def _shuffled(batch: list[Payment]) -> list[Payment]:
    return random.sample(batch, len(batch))
