"""Rule 5: a transaction record that cannot be written never costs the ticket; it is written later, once."""

from dataclasses import dataclass
from functools import partial
from typing import LiteralString

import pytest

from tests.core.support import Call, Connection, Shop, create, create_one, said, scalar, together, violations
from tests.support.database import Database


@dataclass(frozen=True)
class Fault:
    """What breaks the records of payments of 666, or all of them; and what mends it."""

    breaking: list[LiteralString]
    mending: list[LiteralString]
    breaks_all: bool = False


def _trigger(trigger: LiteralString, body: LiteralString, *, breaks_all: bool = False) -> Fault:
    return Fault(
        [
            f"create function public.broken() returns trigger language plpgsql as $$ begin {body} end $$",
            f"create {trigger} execute function public.broken()",
        ],
        ["drop function public.broken() cascade"],
        breaks_all,
    )


_FAULTS = {
    "trigger": _trigger(
        "trigger broken before insert on farebox.transactions for each row",
        "assert new.amount <> 666; return new;",  # which `when others` lets through
    ),
    "left out without a word": _trigger(
        "trigger broken before insert on farebox.transactions for each row",
        "if new.amount = 666 then return null; end if; return new;",
    ),
    "data exception": _trigger(
        "constraint trigger broken after insert on farebox.transactions for each row",
        "if new.amount = 666 then perform 1 / 0; end if; return new;",
    ),
    "disk full": _trigger(
        "trigger broken before insert on farebox.transactions for each statement",
        "raise exception 'no room' using errcode = '53100';",
        breaks_all=True,
    ),
    "constraint": Fault(
        ["alter table farebox.transactions add constraint odd check (amount <> 666) not valid"],
        ["alter table farebox.transactions drop constraint odd"],
    ),
    "key": Fault(
        [
            "create unique index one_each on farebox.transactions (amount) where amount = 666",
            "insert into farebox.transactions values (gen_random_uuid(), gen_random_uuid(), 666, 0, 666)",
        ],
        [
            "drop index farebox.one_each",
            "delete from farebox.transactions where ticket_id <> all (array(select id from farebox.tickets))",
        ],
    ),
    "no right to write": Fault(
        ["revoke insert on farebox.transactions from farebox_owner"],
        ["grant insert on farebox.transactions to farebox_owner"],
        breaks_all=True,
    ),
    "no right at all": Fault(
        ["revoke all on farebox.transactions from farebox_owner"],
        ["grant all on farebox.transactions to farebox_owner"],
        breaks_all=True,
    ),
    "table renamed": Fault(
        ["alter table farebox.transactions rename to away"],
        ["alter table farebox.away rename to transactions"],
        breaks_all=True,
    ),
}


@pytest.fixture
def shop(db: Database) -> Shop:
    return Shop(db)


@pytest.fixture
def conn(db: Database) -> Connection:
    return db.connect(autocommit=True)


@pytest.mark.parametrize("fault", _FAULTS)
@pytest.mark.parametrize("repair", ["replay", "single replay", "worker"])
def test_a_record_that_cannot_be_written_costs_no_ticket(
    db: Database, shop: Shop, conn: Connection, fault: str, repair: str
) -> None:
    """Among others, alone, with a code, beside rejections; a replay or the worker repairs it, once."""
    breaks_all = _FAULTS[fault].breaks_all
    [old] = shop.payments(1)
    create(conn, old)
    for statement in _FAULTS[fault].breaking:
        db.execute(statement)

    code = db.code(shop.company, 3)
    [good], odd = shop.payments(1), shop.payments(2, amount=666)
    [coded], [odd_coded] = (
        shop.payments(1, payment_code=code),
        shop.payments(1, payment_code=code, amount=666),
    )
    payments = [good, coded, *odd, odd_coded]
    *rows, rejected = create(conn, old, *payments, *shop.payments(1, amount=0))
    assert rejected.said == "amount_invalid"
    assert said(rows) == ["duplicate", *["created"] * 5]
    assert [row.recorded for row in rows[1:]] == [not breaks_all] * 2 + [False] * 3
    # A batch of nothing but new tickets takes another way through the function.
    payments += shop.payments(1) + shop.payments(2, amount=666)
    fresh = [*create(conn, *payments[5:7]), create_one(conn, payments[7])]
    assert said(fresh) == ["created"] * 3
    assert [row.recorded for row in fresh] == [not breaks_all, False, False]

    # A replay while it is still broken: the tickets, and the truth about their records.
    again = create(conn, *payments)
    assert said(again) == ["duplicate"] * 8
    assert [row.recorded for row in again] == [row.recorded for row in rows[1:] + fresh]
    for statement in _FAULTS[fault].mending:
        db.execute(statement)
    missing = [row.recorded for row in again].count(False)
    assert [row[0] for row in violations(db)] == ["ticket_has_record"] * missing

    if repair == "worker":
        assert scalar(conn, "select farebox.record_missing_transactions()") == missing
    elif repair == "replay":
        assert all(row.recorded for row in create(conn, *payments))
    else:
        assert all(create_one(conn, payment).recorded for payment in payments)
    assert scalar(conn, "select farebox.record_missing_transactions()") == 0
    assert not violations(db)
    assert db.value("select count(*) from farebox.transactions") == 9


@pytest.mark.parametrize("mode", ["share", "exclusive", "access exclusive"])
def test_a_locked_table_of_records_costs_no_ticket(
    db: Database, shop: Shop, conn: Connection, mode: str
) -> None:
    """The caller will not wait: lock_timeout. One wait is enough, not one for each record."""
    holder = db.connect()
    holder.execute(f"lock table farebox.transactions in {mode} mode".encode())
    conn.execute("set lock_timeout = '50 ms'")
    # One wait for each of them would come to more than what a statement may take here.
    conn.execute("set statement_timeout = '20 s'")
    payments = shop.payments(1000)
    rows = create(conn, *payments)
    single = create_one(conn, shop.payments(1)[0])
    assert {(row.said, row.recorded) for row in (*rows, single)} == {("created", False)}
    holder.rollback()
    assert {(row.said, row.recorded) for row in create(conn, *payments)} == {("duplicate", True)}
    assert scalar(conn, "select farebox.record_missing_transactions()") == 1
    assert not violations(db)


def test_the_repair_writes_so_many_and_no_more(db: Database, shop: Shop, conn: Connection) -> None:
    create(conn, *shop.payments(25))
    db.execute("delete from farebox.transactions")
    assert [scalar(conn, "select farebox.record_missing_transactions(10)") for _ in range(4)] == [
        10,
        10,
        5,
        0,
    ]
    assert not violations(db)


def test_what_can_never_be_repaired_does_not_stand_in_the_way(
    db: Database, shop: Shop, conn: Connection
) -> None:
    create(conn, *shop.payments(3, amount=666), *shop.payments(3), *shop.payments(2, amount=666))
    db.execute("delete from farebox.transactions")
    for statement in _FAULTS["trigger"].breaking:
        db.execute(statement)
    assert [scalar(conn, "select farebox.record_missing_transactions(1)") for _ in range(4)] == [1, 1, 1, 0]
    assert len(violations(db)) == 5


def test_two_who_repair_at_once_write_each_record_once(db: Database, shop: Shop) -> None:
    """What one has in hand the other leaves alone. Seen to wait, which is a failure, without the lock."""
    one, two = db.connect(), db.connect(autocommit=True)
    two.execute("set lock_timeout = '20 s'")
    create(two, *shop.payments(10))
    db.execute("delete from farebox.transactions")
    assert scalar(one, "select farebox.record_missing_transactions(4)") == 4
    assert scalar(two, "select farebox.record_missing_transactions(10)") == 6
    one.rollback()
    assert scalar(two, "select farebox.record_missing_transactions(10)") == 4
    assert not violations(db)


def test_many_who_repair_and_replay_at_once_write_each_record_once(db: Database, shop: Shop) -> None:
    """Seen to fail without the key of transactions."""
    callers = [db.connect(autocommit=True) for _ in range(5)]
    payments = shop.payments(300)
    create(callers[0], *payments)
    for _ in range(5):
        db.execute("delete from farebox.transactions")
        written = together(
            *(partial(scalar, c, "select farebox.record_missing_transactions(200)") for c in callers[:3]),
            lambda: all(row.recorded for row in create(callers[3], *payments[::-1])),
            lambda: all(row.recorded for row in create(callers[4], *payments[100:])),
        )
        assert sum(written[:3]) <= 300
        assert written[3:] == [True, True]
        assert db.value("select count(*) from farebox.transactions") == 300
        assert not violations(db)


def test_a_replay_waits_for_the_repair_in_hand(db: Database, shop: Shop) -> None:
    """And writes the record itself when that fails. Seen to fail without the key of transactions."""
    one, two = db.connect(), db.connect(autocommit=True)
    payment = shop.payments(1)[0]
    create(two, payment)
    for ending in ("commit", "rollback"):
        db.execute("delete from farebox.transactions")
        scalar(one, "select farebox.record_missing_transactions()")
        call = Call(lambda: create_one(two, payment))
        db.wait_until_blocked(two)
        getattr(one, ending)()
        assert (call.result().outcome, call.result().recorded) == ("duplicate", True)
        assert not violations(db)
