"""Rule 4: no deadlocks, whatever batches share and in whatever order.

test_batches_that_share_everything was seen to fail with each of these taken away: the order in which tickets
are inserted, kept payments are written. So was the test of administrators and workers with the latter. (A
deadlock shows as 40P01, which nothing here catches.)
"""

import json
import random
import secrets
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from tests.core.support import Connection, apply_unapplied, create, scalar, together, violations
from tests.support.database import Database

_CALLERS = 3


@pytest.fixture
def rounds() -> int:
    """What the numbers of rounds are multiples of."""
    return 100


def _in_rounds(
    rounds: int, callers: list[Callable[[int], None]], before: Callable[[int], None] = lambda _: None
) -> None:
    """All callers at once, again and again; the first who raises ends it for all."""
    barrier = threading.Barrier(len(callers), timeout=120)

    def run(caller: Callable[[int], None]) -> None:
        try:
            for number in range(rounds):
                if caller is callers[0]:
                    before(number)
                barrier.wait()
                caller(number)
                barrier.wait()
        except threading.BrokenBarrierError:
            pass  # another caller has failed, and tells why
        except BaseException:
            barrier.abort()
            raise

    together(*(partial(run, caller) for caller in callers))


class Rush:
    """Payments of one round, of two companies, with codes, faults and redeliveries."""

    def __init__(self, db: Database, seed: int) -> None:
        self.db = db
        self.chance = random.Random(seed)
        self.places = [(company, db.route(company)) for company in (db.company(), db.company())]
        self.codes = [db.code(self.places[n % 2][0], 100_000) for n in range(4)]
        self.old: list[dict[str, Any]] = []

    def payments(self, count: int) -> list[dict[str, Any]]:
        """New ones, and some that were tried before."""
        new: list[dict[str, Any]] = []
        for _ in range(count):
            company, route = self.chance.choice(self.places)
            new.append(self.db.payment(company, route))
        again = self.chance.sample(self.old, min(len(self.old), count // 2))
        self.old = (self.old + new)[-200:]
        return new + again

    def batch(self, payments: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """A caller's own order and view of them: with or without code, some masked, some closed routes."""
        batch = [
            payment
            | self.chance.choice([{}, {}, {"payment_code": self.chance.choice(self.codes)}])
            | self.chance.choice([{}, {}, {"passenger_phone": "+23276***"}, {"amount": 0}])
            for payment in payments
        ]
        self.chance.shuffle(batch)
        return batch


@pytest.mark.parametrize("size", [4, 16])
def test_batches_that_share_everything_never_deadlock(db: Database, size: int, rounds: int) -> None:
    """500 rounds of three callers, on each server and for each size."""
    seed = secrets.randbits(32)
    rush = Rush(db, seed)
    batches: list[list[dict[str, Any]]] = []
    connections = [db.connect(autocommit=True) for _ in range(_CALLERS)]

    def before(_round: int) -> None:
        payments = rush.payments(size)
        batches[:] = [rush.batch(payments) for _ in range(_CALLERS)]

    def caller(number: int) -> Callable[[int], None]:
        def call(_round: int) -> None:
            create(connections[number], *batches[number])

        return call

    try:
        _in_rounds(5 * rounds, [caller(number) for number in range(_CALLERS)], before)
    except BaseException as error:
        raise AssertionError(f"seed {seed}") from error
    assert not violations(db)
    assert db.value("select count(*) from farebox.tickets") > 5 * rounds


def test_batches_that_share_nothing_but_codes_never_deadlock(db: Database, rounds: int) -> None:
    """Where tickets are shared, who comes second waits there already.

    Seen to fail when codes are locked in any order.
    """
    rush = Rush(db, secrets.randbits(32))
    batches: list[list[dict[str, Any]]] = []
    connections = [db.connect(autocommit=True) for _ in range(_CALLERS)]

    def before(_round: int) -> None:
        batches.clear()
        for _ in range(_CALLERS):
            rush.chance.shuffle(rush.codes)
            batches.append(
                [payment | {"payment_code": code} for code in rush.codes for payment in rush.payments(1)]
            )

    def caller(number: int) -> Callable[[int], None]:
        def call(_round: int) -> None:
            create(connections[number], *batches[number])

        return call

    _in_rounds(3 * rounds, [caller(number) for number in range(_CALLERS)], before)
    assert not violations(db)


def test_opposite_orders_and_crossed_rejections_never_deadlock(db: Database, rounds: int) -> None:
    """The second caller sends everything backwards. In turn: each creates what the other rejects; both create
    the same tickets; both are refused the same payments.

    Seen to fail without the order in which tickets are inserted, and without that of kept payments.
    """
    company = db.company()
    route = db.route(company)
    codes = [db.code(company, 100_000) for _ in range(2)]
    connections = [db.connect(autocommit=True) for _ in range(2)]
    payments = [[db.payment(company, route) for _ in range(12)] for _ in range(3 * rounds)]

    def caller(number: int) -> Callable[[int], None]:
        def change(current: int, n: int) -> dict[str, Any]:
            match current % 3:
                case 0:
                    return {"payment_code": codes[(n + number) % 2]} if n // 6 == number else {"amount": 0}
                case 1:
                    return {}
                case _:
                    return {"amount": 0}

        def call(current: int) -> None:
            batch = [payment | change(current, n) for n, payment in enumerate(payments[current])]
            create(connections[number], *(batch if number == 0 else batch[::-1]))

        return call

    _in_rounds(3 * rounds, [caller(0), caller(1)])
    # Every payment of the first two kinds was right with one of the two at least.
    assert db.value("select count(*) from farebox.tickets") == 2 * rounds * 12
    assert (
        db.value("select count(*) from farebox.unapplied_payments where resolved_at is null") == rounds * 12
    )
    assert not violations(db)


def test_administrators_and_workers_never_deadlock_with_batches(db: Database, rounds: int) -> None:
    """Issuing and cancelling codes, sweeps, repairs and kept payments, in the middle of the rush."""
    seed = secrets.randbits(32)
    rush = Rush(db, seed)
    buyers = [db.connect(autocommit=True) for _ in range(2)]
    administrator, worker = db.connect(autocommit=True), db.connect(autocommit=True)
    owner = {code: str(rush.places[n % 2][0]) for n, code in enumerate(rush.codes)}
    batches: list[list[dict[str, Any]]] = []

    def before(current: int) -> None:
        payments = rush.payments(8)
        batches[:] = [rush.batch(payments) for _ in buyers]
        if current % 10 == 0:
            # Records that are missing, for the repair and the replays to meet.
            db.execute(
                "delete from farebox.transactions where ticket_id = any (array("
                "select ticket_id from farebox.transactions limit 20))"
            )

    def buyer(number: int) -> Callable[[int], None]:
        def buy(_round: int) -> None:
            create(buyers[number], *batches[number])

        return buy

    def administer(current: int) -> None:
        chance = random.Random(seed + current)
        spare = {"company_id": owner[rush.codes[0]], "code": f"spare {current}"}
        terms = [
            {"company_id": owner[code], "code": code, "total_tickets": 100_000 + chance.randint(0, 9)}
            for code in rush.codes
        ]
        terms.append(spare | {"total_tickets": 1})
        chance.shuffle(terms)
        _call(administrator, "issue_payment_codes", terms)
        _call(administrator, "cancel_payment_codes", [spare])

    def work(_round: int) -> None:
        scalar(worker, "select farebox.record_missing_transactions(10)")
        apply_unapplied(worker, 20)
        scalar(worker, "select farebox.expire_payment_codes()")

    try:
        _in_rounds(2 * rounds, [buyer(0), buyer(1), administer, work], before)
    except BaseException as error:
        raise AssertionError(f"seed {seed}") from error
    while scalar(worker, "select farebox.record_missing_transactions(10)"):
        pass
    assert not violations(db)


def _call(conn: Connection, function: str, batch: list[dict[str, Any]]) -> None:
    conn.execute(f"select * from farebox.{function}(%s::json)".encode(), [json.dumps(batch)]).fetchall()
