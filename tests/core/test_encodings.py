"""What a payment is called harms nobody, whatever characters the caller's session has."""

from tests.core.support import Shop, apply_unapplied, create, said
from tests.support.database import Database


def test_an_id_that_the_session_cannot_show_costs_no_answer(db: Database) -> None:
    """Once a bug: 22P05, raised when the rows were sent, took the whole batch back."""
    shop = Shop(db)
    [odd, plain, bad] = shop.payments(3)
    odd["monime_transaction_id"] = "pay-\u017e\u0e01"
    bad |= {"monime_transaction_id": "bad-\u017e\u0e01", "amount": 0}
    with db.connect(autocommit=True) as conn:
        conn.execute("set client_encoding = latin1")
        # JSON says them by escapes, which any session can send.
        for outcome in ("created", "duplicate"):
            rows = create(conn, odd, plain)
            assert said(rows) == [outcome] * 2
            assert [row.transaction_id for row in rows] == ["pay-??", plain["monime_transaction_id"]]
        assert said(create(conn, bad, odd)) == ["amount_invalid", "duplicate"]
        assert said(apply_unapplied(conn)) == ["amount_invalid"]
    # What is stored is the text itself.
    found = "select count(*) from farebox.tickets where monime_transaction_id = %s"
    assert db.value(found, [odd["monime_transaction_id"]]) == 1
    kept = db.value("select monime_transaction_id from farebox.unapplied_payments")
    assert kept == bad["monime_transaction_id"]
