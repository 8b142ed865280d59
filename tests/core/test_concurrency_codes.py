"""Rule 3: a payment code is never over-used and never under-used, whoever charges or changes it at once."""

import itertools
import random
import secrets
import threading
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg.types.json import Json

from tests.core.support import (
    Call,
    Connection,
    Outcome,
    Shop,
    calling,
    create,
    create_one,
    said,
    scalar,
    stop_the_clock,
    together,
    uses,
    violations,
)
from tests.support.database import Database


class CodeShop(Shop):
    """A company with one code, which its payments carry."""

    def __init__(self, db: Database, total: int) -> None:
        super().__init__(db)
        self.code = db.code(self.company, total)

    def payments(self, count: int, **fields: Any) -> list[dict[str, Any]]:
        return super().payments(count, **({"payment_code": self.code} | fields))

    def uses(self) -> tuple[int, str]:
        """Counter and status of the code; all is well otherwise."""
        assert not violations(self.db)
        return uses(self.db, self.code)


@pytest.mark.parametrize("size", [1, 7, 20])
def test_a_code_with_far_more_takers_gives_exactly_its_limit(db: Database, size: int) -> None:
    """Eight callers, single and in batches; every third transaction is rolled back and tried again.

    Seen to fail when _charge_codes does not ask whether the uses are too many: the check constraint on
    used_tickets raises, and without that constraint the code is over-used.
    """
    limit = 60
    shop = CodeShop(db, limit)
    seed = secrets.randbits(32)

    def take(conn: Connection, number: int) -> Counter[str]:
        chance = random.Random(seed + number)
        taken: Counter[str] = Counter()
        for _ in range(40 // size):
            batch = shop.payments(size)
            if chance.random() < 1 / 3:
                create(conn, *batch)
                conn.rollback()
            taken.update(said(create(conn, *batch) if size > 1 else [create_one(conn, batch[0])]))
            conn.commit()
        return taken

    callers = [db.connect() for _ in range(8)]
    taken = sum(together(*(lambda c=c, n=n: take(c, n) for n, c in enumerate(callers))), Counter[str]())
    assert taken == {"created": limit, "code_exhausted": 8 * (40 // size) * size - limit}, f"seed {seed}"
    assert shop.uses() == (limit, "expired")


# Uses left; the payments of the batch, by letter, whose tickets another caller holds without the code; what
# each payment of the batch gets when that caller commits, and when it rolls back.
# c created, d lost (it differs in its code), x exhausted.
_LOST = {
    "the next moves up": (1, "a", "dc", "cx"),
    "two move up": (2, "ab", "ddccx", "ccxxx"),
    "one in the middle": (2, "b", "cdcx", "ccxx"),
    "all are lost": (3, "abc", "ddd", "ccc"),
    "none is left to move up": (2, "ab", "dd", "cc"),
}


@pytest.mark.parametrize("case", _LOST)
@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_a_use_set_free_by_a_lost_ticket_goes_to_the_next(db: Database, case: str, ending: str) -> None:
    """Seen to fail when create_tickets does not give the uses out anew."""
    total, lost, if_lost, if_won = _LOST[case]
    expected = if_lost if ending == "commit" else if_won
    shop = CodeShop(db, total)
    batch = shop.payments(len(expected))
    other, caller = db.connect(), db.connect(autocommit=True)
    create(other, *[batch["abc".index(letter)] | {"payment_code": ""} for letter in lost])
    call = calling(db, caller, *batch)
    getattr(other, ending)()
    letters = {"created": "c", "conflict": "d", "code_exhausted": "x"}
    assert "".join(letters[word] for word in said(call.result())) == expected
    used = expected.count("c")
    assert shop.uses() == (used, "expired" if used == total else "active")


def test_uses_move_on_as_often_as_tickets_are_lost(db: Database) -> None:
    """Three other callers, one after the other: lost, lost, won. Seen to fail with one more round only."""
    shop = CodeShop(db, 1)
    batch = shop.payments(5)
    others = [db.connect() for _ in range(3)]
    for other, payment in zip(others, batch, strict=False):
        create(other, payment | {"payment_code": None})
    caller = db.connect(autocommit=True)
    call = calling(db, caller, *batch)
    for other, ending in zip(others, ("commit", "commit", "rollback"), strict=True):
        pids = [other.info.backend_pid, caller.info.backend_pid]
        db.wait_until("select %s = any (pg_blocking_pids(%s))", pids)
        getattr(other, ending)()
    assert said(call.result()) == ["conflict", "conflict", "created", "code_exhausted", "code_exhausted"]
    assert shop.uses() == (1, "expired")


@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_a_lost_ticket_also_gives_way_to_the_same_payment_with_another_code(
    db: Database, ending: str
) -> None:
    """Seen to fail when create_tickets does not give the uses out anew."""
    shop = CodeShop(db, 1)
    second = db.code(shop.company, 1)
    [a, b, c] = shop.payments(3)
    other, caller = db.connect(), db.connect(autocommit=True)
    create(other, a | {"payment_code": None})
    call = calling(db, caller, a, b, b | {"payment_code": second}, c | {"payment_code": second})
    getattr(other, ending)()
    assert said(call.result()) == (
        ["conflict", "created", "conflict", "created"]
        if ending == "commit"
        else ["created", "code_exhausted", "created", "code_exhausted"]
    )
    assert (shop.uses(), uses(db, second)) == ((1, "expired"), (1, "expired"))


def test_uses_are_given_out_anew_also_when_a_payment_without_a_code_is_lost(db: Database) -> None:
    """Seen to fail (it never ends) when only payments with a code are looked for again."""
    shop = CodeShop(db, 1)
    [a, b, lost] = shop.payments(3)
    lost["payment_code"] = None
    other, caller = db.connect(), db.connect(autocommit=True)
    create(other, lost)
    call = calling(db, caller, a, lost, b)
    other.commit()
    assert said(call.result()) == ["created", "duplicate", "code_exhausted"]
    assert shop.uses() == (1, "expired")


@pytest.mark.parametrize("neighbours", [False, True])
def test_a_retry_whose_code_was_spent_while_it_waited_is_a_duplicate(db: Database, neighbours: bool) -> None:
    """The first call and its retry overlap; the first spends the last use, and commits.

    Seen to fail (it never ends) when payments that have a ticket by now are not looked for.
    """
    shop = CodeShop(db, 2)
    [payment, rival, late, free] = shop.payments(4)
    first, retry = db.connect(), db.connect(autocommit=True)
    created = create(first, rival, payment)
    batch = [late, payment, free | {"payment_code": None}, rival] if neighbours else [payment]
    call = calling(db, retry, *batch)
    first.commit()
    outcomes = call.result()
    assert said(outcomes) == (
        ["code_exhausted", "duplicate", "created", "duplicate"] if neighbours else ["duplicate"]
    )
    assert outcomes[1 if neighbours else 0].ticket_id == created[1].ticket_id
    assert shop.uses() == (2, "expired")


def _admin(conn: Connection, function: str, **element: Any) -> str:
    """What ``issue_payment_codes`` or ``cancel_payment_codes`` says to one element."""
    [(outcome, reason)] = conn.execute(
        f"select outcome, reason from farebox.{function}(json_build_array(%s::json))".encode(),
        [Json(element)],
    )
    return str(reason or outcome)


def _change(shop: CodeShop, change: str) -> Callable[[Connection], str]:
    """What an administrator does to the code, as a call."""
    named: dict[str, Any] = {"company_id": str(shop.company), "code": shop.code}
    yesterday = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    calls: dict[str, Callable[[Connection], str]] = {
        "cancel": lambda conn: _admin(conn, "cancel_payment_codes", **named),
        "lower": lambda conn: _admin(conn, "issue_payment_codes", total_tickets=2, **named),
        "raise": lambda conn: _admin(conn, "issue_payment_codes", total_tickets=9, **named),
        "end": lambda conn: _admin(conn, "issue_payment_codes", expires_at=yesterday, **named),
    }
    return calls[change]


# What the change says, and what the next payment gets.
_CHANGES = {
    "cancel": ("cancelled", "code_cancelled"),
    "lower": ("updated", "code_exhausted"),
    "raise": ("updated", "created"),
    "end": ("updated", "code_expired"),
}


@pytest.mark.parametrize("change", _CHANGES)
@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_a_payment_waits_for_a_change_of_its_code(db: Database, change: str, ending: str) -> None:
    """It is judged again once locked. Seen to fail when _charge_codes does not."""
    shop = CodeShop(db, 3)
    administrator, caller = db.connect(), db.connect(autocommit=True)
    create(caller, *shop.payments(2))
    says, after = _CHANGES[change]
    assert _change(shop, change)(administrator) == says
    call = calling(db, caller, *shop.payments(1))
    getattr(administrator, ending)()
    assert said(call.result()) == [after if ending == "commit" else "created"]
    shop.uses()


@pytest.mark.parametrize("change", _CHANGES)
@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_a_change_of_a_code_waits_for_payments(db: Database, change: str, ending: str) -> None:
    """Seen to fail for a lowered limit when the administrator's functions take no lock."""
    shop = CodeShop(db, 5)
    administrator, caller = db.connect(autocommit=True), db.connect()
    create(caller, *shop.payments(3))
    call = Call(lambda: _change(shop, change)(administrator))
    db.wait_until_blocked(administrator)
    getattr(caller, ending)()
    says, after = _CHANGES[change]
    if change == "lower" and ending == "commit":
        assert (call.result(), after) == ("total_below_used", "code_exhausted")
        after = "created"
    else:
        assert call.result() == says
    if change == "lower" and ending == "rollback":
        assert said(create(caller, *shop.payments(2))) == ["created", "created"]
    assert said(create(caller, *shop.payments(1))) == [after]
    caller.commit()
    shop.uses()


@pytest.mark.parametrize("ending", ["commit", "rollback"])
@pytest.mark.parametrize(
    ("total", "changed", "after"), [(2, 9, "ccc"), (2, 3, "ccc"), (3, 2, "ccx"), (3, 1, "cxx")]
)
def test_the_last_uses_go_by_the_limit_of_the_moment(
    db: Database, total: int, changed: int, after: str, ending: str
) -> None:
    """An administrator changes the limit while a batch gives out the uses it sees.

    Seen to fail when _charge_codes does not ask whether these were the last uses (raised), or whether they
    are too many (lowered).
    """
    shop = CodeShop(db, total)
    administrator, caller = db.connect(), db.connect(autocommit=True)
    terms = {"company_id": str(shop.company), "code": shop.code, "total_tickets": changed}
    assert _admin(administrator, "issue_payment_codes", **terms) == "updated"
    call = calling(db, caller, *shop.payments(3))
    getattr(administrator, ending)()
    letters = {"created": "c", "code_exhausted": "x"}
    expected = after if ending == "commit" else "ccc" if total == 3 else "ccx"
    assert "".join(letters[word] for word in said(call.result())) == expected
    shop.uses()


def test_who_waits_for_a_ticket_keeps_nobody_from_its_code(db: Database) -> None:
    """A code is locked for little longer than a commit. Seen to fail with codes locked before tickets."""
    shop = CodeShop(db, 9)
    [payment, another] = shop.payments(2)
    holder, waiting, free = db.connect(), db.connect(autocommit=True), db.connect(autocommit=True)
    create(holder, payment | {"payment_code": None})
    call = calling(db, waiting, payment)
    assert said(create(free, another)) == ["created"]
    holder.rollback()
    assert said(call.result()) == ["created"]
    assert shop.uses() == (2, "active")


def test_a_code_whose_time_ends_while_a_payment_waits_is_expired(db: Database) -> None:
    """The clock is read again once the lock is there. Seen to fail without the lock, and read before it."""
    now = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
    stop_the_clock(db, now)
    shop = CodeShop(db, 9)
    db.execute("update farebox.payment_codes set expires_at = %s", [now + timedelta(seconds=60)])
    holder, caller = db.connect(), db.connect(autocommit=True)
    create(holder, *shop.payments(1))
    call = calling(db, caller, *shop.payments(1))
    stop_the_clock(db, now + timedelta(seconds=60))
    holder.commit()
    assert said(call.result()) == ["code_expired"]
    assert shop.uses() == (1, "active")


def test_no_ticket_is_younger_than_the_end_of_its_code(db: Database) -> None:
    """A clock that runs over the end while callers buy, and the sweep goes round.

    Seen to fail when _code_refusal does not ask for the end: then only the sweep stops the sale.
    """
    now = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
    stop_the_clock(db, now)
    shop = CodeShop(db, 10_000)
    end = now + timedelta(seconds=20)
    db.execute("update farebox.payment_codes set expires_at = %s", [end])
    everybody_buys, over = threading.Barrier(4, timeout=120), threading.Event()

    def buy(conn: Connection) -> set[str]:
        words = set(said(create(conn, *shop.payments(1))))
        everybody_buys.wait()
        while not over.is_set():
            words.update(said(create(conn, *shop.payments(3))))
        words.update(said(create(conn, *shop.payments(1))))
        return words

    def sweep(conn: Connection) -> set[str]:
        everybody_buys.wait()
        swept = 0
        try:
            for second in range(40):
                stop_the_clock(db, now + timedelta(seconds=second))
                swept += scalar(conn, "select farebox.expire_payment_codes()")
        finally:
            over.set()
        return {str(swept)}

    callers = [db.connect(autocommit=True) for _ in range(4)]
    *bought, _ = together(*(lambda c=c: buy(c) for c in callers[:3]), lambda: sweep(callers[3]))
    assert all(words == {"created", "code_expired"} for words in bought)
    assert db.value("select max(created_at) < %s from farebox.tickets", [end])
    scalar(callers[3], "select farebox.expire_payment_codes()")
    assert shop.uses()[1] == "expired"


def test_the_sweep_does_not_wait_for_payments(db: Database) -> None:
    shop = CodeShop(db, 5)
    db.execute("update farebox.payment_codes set expires_at = clock_timestamp() + interval '1 hour'")
    other = db.code(shop.company, 1)
    caller, sweeper = db.connect(), db.connect(autocommit=True)
    create(caller, *shop.payments(1))
    later = db.advance_clock(timedelta(hours=2))
    db.execute("update farebox.payment_codes set expires_at = %s where code = %s", [later, other])
    assert scalar(sweeper, "select farebox.expire_payment_codes()") == 1
    caller.commit()
    assert scalar(sweeper, "select farebox.expire_payment_codes()") == 1
    assert shop.uses() == (1, "expired")


def test_limits_that_go_up_and_down_under_load_are_kept(db: Database) -> None:
    """Seen to fail when _charge_codes does not ask whether the uses are too many."""
    shop = CodeShop(db, 1)
    seed = secrets.randbits(32)
    over = threading.Event()

    def buy(conn: Connection, number: int) -> int:
        chance = random.Random(seed + number)
        created = 0
        while not over.is_set():
            outcomes = create(conn, *shop.payments(chance.randint(1, 4)))
            if chance.random() < 0.2:
                conn.rollback()
            else:
                created += said(outcomes).count("created")
                conn.commit()
        return created

    def change(conn: Connection) -> int:
        chance = random.Random(seed)
        top = 1
        try:
            for _ in range(150):
                total = max(1, top + chance.randint(-3, 5))
                answer = _admin(
                    conn,
                    "issue_payment_codes",
                    company_id=str(shop.company),
                    code=shop.code,
                    total_tickets=total,
                )
                assert answer in ("updated", "unchanged", "total_below_used"), f"seed {seed}"
                top = total if answer != "total_below_used" else top
        finally:
            over.set()
        return 0

    callers = [db.connect() for _ in range(4)]
    administrator = db.connect(autocommit=True)
    *created, _ = together(
        *(lambda c=c, n=n: buy(c, n) for n, c in enumerate(callers, start=1)), lambda: change(administrator)
    )
    assert shop.uses()[0] == sum(created) == db.value("select count(*) from farebox.tickets"), f"seed {seed}"
    # What is left of it is sold, and no more.
    left = db.value("select total_tickets - used_tickets from farebox.payment_codes")
    outcomes: list[Outcome] = create(administrator, *shop.payments(left + 1))
    assert said(outcomes) == [*itertools.repeat("created", left), "code_exhausted"]
    assert shop.uses()[1] == "expired"
