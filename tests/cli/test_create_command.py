"""`farebox create`."""

import json

import pytest

from tests.cli.commands import farebox
from tests.support.database import Database


def test_one_payment_becomes_a_ticket_and_stays_it(db: Database) -> None:
    company = db.company()
    payment = json.dumps(db.payment(company, db.route(company)))
    first = farebox("create", "--json", dsn=db.dsn, stdin=payment)
    assert first.code == 0
    assert first.document["outcome"] == "created"
    again = farebox("create", "--json", dsn=db.dsn, stdin=payment)
    assert again.code == 0
    assert again.document["outcome"] == "duplicate"
    assert again.document["ticket_id"] == first.document["ticket_id"]


@pytest.mark.parametrize("form", ["array", "lines", "pretty", "marked"])
def test_many_payments_come_in_any_form(db: Database, form: str) -> None:
    company, payments = db.company(), []
    route = db.route(company)
    payments = [db.payment(company, route) for _ in range(3)]
    text = {
        "array": json.dumps(payments),
        "lines": "\n".join(map(json.dumps, payments)),
        "pretty": "\n".join(json.dumps(payment, indent=2) for payment in payments),
        "marked": "\ufeff" + json.dumps(payments),
    }[form]
    ran = farebox("create", "--json", dsn=db.dsn, stdin=text)
    assert [row["ordinal"] for row in ran.rows] == [1, 2, 3]
    assert [row["monime_transaction_id"] for row in ran.rows] == [
        payment["monime_transaction_id"] for payment in payments
    ]
    assert {row["outcome"] for row in ran.rows} == {"created"}


def test_conflicts_and_rejections_end_with_one_and_say_why(db: Database) -> None:
    company = db.company()
    payment = db.payment(company, db.route(company))
    other = payment | {"amount": 1, "monime_otp": "9999"}
    masked = payment | {"monime_transaction_id": "pay-masked", "passenger_phone": "+23276***456"}
    ran = farebox("create", dsn=db.dsn, stdin=json.dumps([payment, other, masked]))
    assert ran.code == 1
    assert "monime_otp, amount" in ran.out
    assert "phone_invalid" in ran.out


def test_values_reach_the_database_as_they_came(db: Database) -> None:
    company = db.company()
    payment = json.dumps(db.payment(company, db.route(company), amount=5000))
    notations = ["5000", "5000.0", "5e3", '"5000"']
    texts = [payment.replace(": 5000}", f": {notation}}}") for notation in notations]
    ran = farebox("create", "--json", dsn=db.dsn, stdin="\n".join(texts))
    assert [row["outcome"] for row in ran.rows] == ["created", "duplicate", "duplicate", "duplicate"]


@pytest.mark.parametrize("amount", ["1e400", "9" * 5000, "1e99999999", '"\\ud800"', '"\\u0000"', "[[[]]]"])
def test_hostile_values_are_rejected_rows(db: Database, amount: str) -> None:
    company = db.company()
    payment = json.dumps(db.payment(company, db.route(company), amount=5000))
    ran = farebox("create", "--json", dsn=db.dsn, stdin=payment.replace(": 5000}", f": {amount}}}"))
    assert ran.code == 1
    assert ran.document["reason"] == "amount_invalid"
    # What was kept can be listed too, with the request that Python could not hold as a number.
    listed = farebox("unapplied", "list", "--with-request", "--json", dsn=db.dsn)
    assert listed.code == 0
    assert listed.document["reason"] == "amount_invalid"


@pytest.mark.parametrize("text", ["", "[]", "{", "[1", "nonsense", '{"amount": NaN}', "[" * 5000])
def test_input_that_is_no_payment_is_wrong_usage(text: str) -> None:
    ran = farebox("create", dsn="host=127.0.0.1 port=1", stdin=text)
    assert ran.code == 2
    assert ran.err.startswith("error: ")


def test_more_than_ten_thousand_belong_into_a_file() -> None:
    ran = farebox("create", dsn="host=127.0.0.1 port=1", stdin="{}\n" * 10_001)
    assert ran.code == 2
    assert "farebox import" in ran.err


def test_no_phone_and_no_otp_is_printed(db: Database) -> None:
    company = db.company()
    payment = db.payment(company, db.route(company), passenger_phone="+23276987654", monime_otp="CANARY42")
    for stdin in (payment, payment, payment | {"amount": 1}, payment | {"route_id": "nonsense"}):
        for options in ([], ["--json"]):
            ran = farebox("create", *options, dsn=db.dsn, stdin=json.dumps(stdin))
            assert "987654" not in ran.out + ran.err
            assert "CANARY42" not in ran.out + ran.err
