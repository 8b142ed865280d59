"""Notifications: at once for whoever sleeps, none for whoever does not."""

from psycopg import sql

from tests.core.support import scalar
from tests.queue.support import Connection, Shop, enqueue, process
from tests.support.database import Database


def _listen(db: Database, channel: str) -> Connection:
    conn = db.connect(autocommit=True)
    conn.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))
    return conn


def _heard(listener: Connection, db: Database, channel: str) -> list[str]:
    """What has arrived: all up to a mark of our own, because notifications come in order of commits."""
    db.execute("select pg_notify(%s, 'mark')", [channel])
    heard: list[str] = []
    for notice in listener.notifies(timeout=60):
        if notice.payload == "mark":
            return heard
        heard.append(notice.payload)
    raise AssertionError("no notification within a minute")


def test_the_first_request_after_a_worker_lay_down_wakes_it_and_no_other_does(db: Database) -> None:
    shop = Shop(db)
    listener = _listen(db, "farebox_queue")
    with db.connect(autocommit=True) as conn:
        enqueue(conn, shop.payments(1))
        assert _heard(listener, db, "farebox_queue") == []  # nobody had slept yet
        while process(conn).taken:
            pass
        for _ in range(20):
            enqueue(conn, shop.payments(1))
        assert _heard(listener, db, "farebox_queue") == [""]
        assert process(conn).taken == 20
        enqueue(conn, shop.payments(1))
        assert _heard(listener, db, "farebox_queue") == []  # the worker is still up
        while process(conn).taken:
            pass
        enqueue(conn, shop.payments(1))
        assert _heard(listener, db, "farebox_queue") == [""]


def test_a_request_stored_while_the_worker_lies_down_is_seen_by_it(db: Database) -> None:
    """It rings for itself first and looks again then."""
    shop = Shop(db)
    with db.connect(autocommit=True) as conn:
        assert process(conn).taken == 0
        assert scalar(conn, "select last_value from farebox.ticket_queue_bell") == 1
        enqueue(conn, shop.payments(2))
        assert process(conn).created == 2


def test_a_notification_comes_with_the_commit_and_not_without(db: Database) -> None:
    shop = Shop(db)
    listener = _listen(db, "farebox_queue")
    producer, conn = db.connect(), db.connect(autocommit=True)
    assert process(conn).taken == 0
    enqueue(producer, shop.payments(1))
    assert _heard(listener, db, "farebox_queue") == []
    producer.rollback()
    assert _heard(listener, db, "farebox_queue") == []
    # The bell is rung and nobody heard it: the next look hangs it up again.
    enqueue(conn, shop.payments(1))
    assert _heard(listener, db, "farebox_queue") == []
    assert process(conn).created == 1
    assert process(conn).taken == 0
    enqueue(conn, shop.payments(1))
    assert _heard(listener, db, "farebox_queue") == [""]


def test_whoever_waits_for_outcomes_is_told_which_are_settled(db: Database) -> None:
    shop = Shop(db)
    listener = _listen(db, "farebox_settled")
    with db.connect(autocommit=True) as conn:
        enqueue(conn, shop.payments(3))
        process(conn)
        assert _heard(listener, db, "farebox_settled") == []  # nobody waited
        ids = enqueue(conn, shop.payments(3))
        conn.execute("select farebox.queued_outcomes('{}', '[]')")
        process(conn)
        assert _heard(listener, db, "farebox_settled") == [",".join(map(str, ids))]
        ids = enqueue(conn, shop.payments(3_000))
        conn.execute("select farebox.queued_outcomes('{}', '[]')")
        process(conn, 3_000)
        [payload] = _heard(listener, db, "farebox_settled")
        assert ",".join(map(str, ids)).startswith(payload)  # as many as there is room for
