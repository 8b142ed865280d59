"""What section 3 of the contract says of single elements: outcomes, their order, what counts as the same."""

import itertools
import json
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.core.support import Outcome, create, create_one, said, scalar, uses, violations
from tests.support.database import Database

_COMPARED = ["route_id", "passenger_phone", "payment_code", "monime_otp", "amount"]


def test_a_payment_becomes_a_ticket_once(db: Database) -> None:
    company = db.company()
    payment = db.payment(company, db.route(company))
    with db.connect(autocommit=True) as conn:
        [first] = create(conn, payment)
        again = [create_one(conn, payment), *create(conn, payment, payment)]
    assert first.ticket_id is not None
    assert first == Outcome(
        1, payment["monime_transaction_id"], "created", None, first.ticket_id, None, None, True
    )
    assert said(again) == ["duplicate"] * 3
    assert {(row.ticket_id, row.recorded) for row in again} == {(first.ticket_id, True)}
    assert not violations(db)


def test_a_later_payment_has_a_later_ticket_id(db: Database) -> None:
    company = db.company()
    route = db.route(company)
    with db.connect(autocommit=True) as conn:
        ids = [create_one(conn, db.payment(company, route)).ticket_id for _ in range(3)]
        db.wait_until(
            "select clock_timestamp() > %s::timestamptz + '2 ms'", [db.value("select clock_timestamp()")]
        )
        rows = create(conn, *[db.payment(company, route) for _ in range(300)])
    batch = [row.ticket_id for row in rows]
    assert all(isinstance(ticket, UUID) and ticket.version == 7 for ticket in [*ids, *batch])
    assert batch == sorted(batch, key=str)
    assert max(str(ticket) for ticket in ids) < str(batch[0])


@pytest.mark.parametrize(
    ("amount", "rate", "commission"),
    [
        (10, "0.05", 1),
        (30, "0.05", 2),
        (50, "0.05", 3),
        (9, "0.05", 0),
        (1, "0.5", 1),
        (1, "0.4999", 0),
        (10**12, "1", 10**12),
        (10**12, "0.0001", 10**8),
        (1, "0", 0),
    ],
)
def test_commission_is_rounded_half_away_from_zero(
    db: Database, amount: int, rate: str, commission: int
) -> None:
    company = db.company(rate=rate)
    route = db.route(company)
    with db.connect(autocommit=True) as conn:
        [own, given] = create(
            conn,
            db.payment(company, route, amount=amount),
            db.payment(company, route, amount=amount, commission_rate="0.1"),
        )
    records: dict[UUID | None, list[int]] = dict(
        db.execute("select ticket_id, array[amount, commission, net_amount] from farebox.transactions")
    )
    assert records[own.ticket_id] == [amount, commission, amount - commission]
    assert records[given.ticket_id][1] == (amount + 5) // 10


def test_what_differs_is_told_in_order_and_the_rate_never_is(db: Database) -> None:
    """Every combination of fields that differ, some by another value, some malformed."""
    company = db.company()
    code = db.code(company, 5)
    payment = db.payment(company, db.route(company), payment_code=code, commission_rate="0.05")
    others: dict[str, list[Any]] = {
        "route_id": [str(db.route(company)), "none", None, str(uuid4())],
        "passenger_phone": ["+23276999999", "+23276***999", 5, None],
        "payment_code": [db.code(company, 5), "", "no such code", 5],
        "monime_otp": ["ZZZZ", "!", None, ["1234"]],
        "amount": [payment["amount"] + 1, "x", None, 0],
    }
    with db.connect(autocommit=True) as conn:
        created = create_one(conn, payment)
        for which in range(4):
            for chosen in itertools.product([False, True], repeat=5):
                names = [name for name, differs in zip(_COMPARED, chosen, strict=True) if differs]
                outcome = create_one(
                    conn,
                    payment | {"commission_rate": "junk"} | {name: others[name][which] for name in names},
                )
                assert outcome.differing == (names or None)
                assert outcome.outcome == ("conflict" if names else "duplicate")
                assert outcome.reason is None
                assert (outcome.existing_ticket_id if names else outcome.ticket_id) == created.ticket_id
                assert (outcome.ticket_id if names else outcome.existing_ticket_id) is None
    assert uses(db, code) == (1, "active")
    assert not db.execute("select from farebox.unapplied_payments")


def test_of_several_faults_the_first_of_the_contract_is_told(db: Database) -> None:
    """Each pair of faults, in one element."""
    company, suspended, other = db.company(), db.company(status="suspended"), db.company()
    route, second = db.route(company), db.route(company)
    spent, cancelled, late = db.code(company, 1), db.code(company, 1), db.code(company, 1)
    wrong_way = db.code(company, 1, route=second)
    db.execute(
        "update farebox.payment_codes set expires_at = farebox._now() - interval '1 s' where code = %s",
        [late],
    )
    db.execute("update farebox.payment_codes set status = 'cancelled' where code = %s", [cancelled])
    # A later entry of the list yields to an earlier one; where two set the same field, the pair is left out.
    faults: list[tuple[str, dict[str, Any]]] = [
        ("transaction_id_invalid", {"monime_transaction_id": " "}),
        ("company_id_invalid", {"company_id": "x"}),
        ("route_id_invalid", {"route_id": None}),
        ("phone_invalid", {"passenger_phone": "+0232761234"}),
        ("otp_invalid", {"monime_otp": "123"}),
        ("amount_invalid", {"amount": 0.5}),
        ("commission_rate_invalid", {"commission_rate": 1.1}),
        ("company_not_found", {"company_id": str(uuid4())}),
        ("company_suspended", {"company_id": str(suspended)}),
        ("route_not_found", {"route_id": str(uuid4())}),
        ("route_not_found", {"route_id": str(db.route(other))}),
        ("route_inactive", {"route_id": str(db.route(company, status="inactive"))}),
        ("code_not_found", {"payment_code": "no such code"}),
        ("code_not_found", {"payment_code": db.code(other, 1)}),
        ("code_route_mismatch", {"payment_code": wrong_way}),
        ("code_cancelled", {"payment_code": cancelled}),
        ("code_expired", {"payment_code": late}),
        ("code_exhausted", {"payment_code": spent}),
    ]
    pairs = [
        (first, second)
        for first, second in itertools.combinations(faults, 2)
        if not first[1].keys() & second[1].keys()
        # the company's own faults hide what would be found of its routes and codes
    ]
    with db.connect(autocommit=True) as conn:
        assert create_one(conn, db.payment(company, route, payment_code=spent)).outcome == "created"
        singles = create(conn, *[db.payment(company, route, **fields) for _, fields in faults])
        rows = create(conn, *[db.payment(company, route, **two[1], **one[1]) for one, two in pairs])
    assert said(singles) == [reason for reason, _ in faults]
    assert [(row.said, pair) for row, pair in zip(rows, pairs, strict=True) if row.said != pair[0][0]] == []
    assert len(pairs) > 90
    assert not violations(db)


def test_another_companys_payment_is_unavailable_and_nothing_else_is_told(db: Database) -> None:
    owner, other = db.company(), db.company(status="suspended")
    payment = db.payment(owner, db.route(owner))
    with db.connect(autocommit=True) as conn:
        create(conn, payment)
        # The existence check comes before every other fault but two.
        rows = create(
            conn,
            payment | {"company_id": str(other)},
            payment | {"company_id": str(uuid4()), "route_id": "x", "amount": "x"},
            {"company_id": str(other), "monime_transaction_id": payment["monime_transaction_id"]},
            payment | {"company_id": "x"},
        )
    assert said(rows) == [*["transaction_id_unavailable"] * 3, "company_id_invalid"]
    assert {row[4:] for row in rows} == {(None, None, None, False)}
    kept = db.execute("select reason, attempts from farebox.unapplied_payments")
    assert kept == [("company_id_invalid", 1)]


def test_a_retry_gets_its_ticket_whatever_has_happened_since(db: Database) -> None:
    company = db.company()
    route = db.route(company)
    code = db.code(company, 1)
    payments = [db.payment(company, route, payment_code=code), db.payment(company, route)]
    with db.connect(autocommit=True) as conn:
        created = create(conn, *payments)

        def retry() -> None:
            rows = [*create(conn, *payments), *(create_one(conn, payment) for payment in payments)]
            assert said(rows) == ["duplicate"] * 4
            assert [row.ticket_id for row in rows] == [row.ticket_id for row in created] * 2

        retry()
        db.execute("update farebox.companies set status = 'suspended'")
        retry()
        db.execute("update farebox.routes set status = 'inactive'")
        db.execute(
            "update farebox.payment_codes set status = 'cancelled', expires_at = '2001-01-01 00:00+00'"
        )
        retry()
        for status in ("used", "expired", "cancelled"):
            db.execute("update farebox.tickets set status = %s", [status])
            retry()
    assert uses(db, code) == (1, "cancelled")


def test_a_spent_code_reads_exhausted_and_a_late_one_expired(db: Database) -> None:
    company = db.company()
    route = db.route(company)
    now = db.advance_clock(timedelta())
    code = db.code(company, 2, expires_at=now + timedelta(seconds=10))
    with db.connect(autocommit=True) as conn:

        def buy() -> str:
            return create_one(conn, db.payment(company, route, payment_code=code)).said

        assert buy() == "created"
        db.set_clock(now + timedelta(seconds=9.999999))
        assert buy() == "created"
        assert uses(db, code) == (2, "expired")
        assert buy() == "code_exhausted"
        db.set_clock(now + timedelta(seconds=10))
        assert buy() == "code_expired"  # its time is over: that is said first

        code = db.code(company, 2)
        db.execute("update farebox.payment_codes set status = 'expired' where code = %s", [code])
        assert buy() == "code_expired"  # expired with uses left


def test_inside_a_batch_the_lowest_ordinals_get_the_last_uses(db: Database) -> None:
    company = db.company()
    route = db.route(company)
    code, other = db.code(company, 2), db.code(company, 1)
    a, b, c, d = (db.payment(company, route, payment_code=code) for _ in range(4))
    with db.connect(autocommit=True) as conn:
        rows = create(
            conn,
            a,
            c | {"amount": 0},  # takes no use
            a,  # repeats, takes no use
            b,
            c,  # nothing left
            c | {"payment_code": other},  # the same payment, another code
            d | {"payment_code": other},
            d | {"payment_code": None},
            d,
        )
    assert said(rows) == [
        *("created", "amount_invalid", "duplicate", "created", "code_exhausted"),
        *("created", "code_exhausted", "created", "conflict"),
    ]
    assert (uses(db, code), uses(db, other)) == ((2, "expired"), (1, "expired"))
    assert not violations(db)


@pytest.mark.parametrize("misuse", [None, "null", "{}", '"[]"', "1", "true"])
@pytest.mark.parametrize("function", ["create_tickets", "upsert_companies", "issue_payment_codes"])
def test_what_is_no_array_is_misuse(db: Database, function: str, misuse: str | None) -> None:
    with db.connect() as conn, pytest.raises(psycopg.Error) as error:
        conn.execute(f"select * from farebox.{function}(%s::json)".encode(), [misuse])
    assert error.value.sqlstate == "TK001"
    assert error.value.diag.message_hint


def test_a_batch_has_at_most_10_000_elements(db: Database) -> None:
    company = db.company()
    route = db.route(company)
    payment, refused = db.payment(company, route), db.payment(company, route)
    with db.connect() as conn:
        rows = create(conn, payment, *["{}"] * 9_998, payment)
    assert [row.ordinal for row in rows] == list(range(1, 10_001))
    assert said([rows[0], rows[5000], rows[-1]]) == ["created", "transaction_id_invalid", "duplicate"]
    with db.connect() as conn, pytest.raises(psycopg.Error) as error:
        create(conn, refused, *["{}"] * 10_000)
    assert error.value.sqlstate == "TK002"
    assert error.value.diag.message_hint
    assert db.execute("select monime_transaction_id from farebox.tickets") == [
        (payment["monime_transaction_id"],)
    ]


def test_an_empty_batch_has_no_rows(db: Database) -> None:
    with db.connect() as conn:
        assert create(conn) == []


@pytest.mark.parametrize(
    "number",
    [
        "12345678123456781234567812345678",
        "12345678123456781234567812345e78",
        "1234567e-123456781234567812345678",
    ],
)
def test_a_json_number_is_no_id(db: Database, number: str) -> None:
    company = UUID(number)
    db.execute("insert into farebox.companies (id, name) values (%s, 'in digits')", [company])
    db.execute(
        "insert into farebox.routes (id, company_id, name, fare) values (%s, %s, 'R', 1)", [company] * 2
    )
    good = json.dumps(db.payment(company, company))
    bare = [good.replace(f'"{key}": "{company}"', f'"{key}": {number}') for key in ("company_id", "route_id")]
    with db.connect(autocommit=True) as conn:
        assert said(create(conn, *bare, good)) == ["company_id_invalid", "route_id_invalid", "created"]
        # The same once more, now that its ticket is there.
        assert said(create(conn, good, *bare)) == ["duplicate", "company_id_invalid", "conflict"]


@pytest.fixture
def depth_step() -> int:
    """Of the depths that the next test tries: every one."""
    return 1


def test_a_deep_element_harms_neither_its_neighbours_nor_later_attempts(
    db: Database, depth_step: int
) -> None:
    """As deep as the server takes JSON at all, whatever the functions themselves need of the stack."""
    company = db.company()
    route = db.route(company)

    def deep(levels: int) -> str:
        bad = json.dumps(db.payment(company, route, amount=0))
        return f'{bad[:-1]}, "x": {"[" * levels}{"]" * levels}}}'

    with db.connect(autocommit=True) as conn:
        low, high = 1_000, 100_000
        while high - low > 1:
            middle = (low + high) // 2
            try:
                scalar(conn, "select json_typeof(%s::json)", [f"[{deep(middle)}]"])
            except psycopg.errors.StatementTooComplex:
                high = middle
            else:
                low = middle
        # Each function stands at another height of the stack, so a depth may be too much for only one.
        for levels in range(low - 120, low + 1, depth_step):
            rows = create(conn, deep(levels), db.payment(company, route))
            assert said(rows) == ["amount_invalid", "created"], levels
        kept = db.payment(company, route, amount=-1)
        assert create_one(conn, kept).said == "amount_invalid"
        rows = [Outcome(*row) for row in conn.execute("select * from farebox.apply_unapplied_payments()")]
    assert kept["monime_transaction_id"] in {row.transaction_id for row in rows}
    assert {row.outcome for row in rows} == {"rejected"}
