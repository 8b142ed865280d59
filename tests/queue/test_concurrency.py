"""Producers, workers and operators at once, on real sessions that wait for each other."""

import json
import threading
from functools import partial
from typing import LiteralString

import psycopg
import pytest

from tests.core.support import Call, scalar, together
from tests.queue.support import (
    Counts,
    Shop,
    assert_all_done,
    enqueue,
    missing,
    postpone_sweep,
    process,
    process_all,
    sum_of,
    tick,
)
from tests.support.database import Database

_HINTS = ("floor", "next_floor", "generation", "tick", "sweep", "bell", "watch")


def test_workers_never_hold_the_same_request_and_never_wait(db: Database) -> None:
    """Without SKIP LOCKED the second worker waits (and is cancelled by the time-out); without FOR UPDATE both
    take the same.
    """
    shop = Shop(db)
    payments = shop.payments(30)
    first, second, third = db.connect(), db.connect(), db.connect()
    enqueue(first, payments)
    first.commit()
    for conn in (second, third):
        conn.execute("set statement_timeout = '20s'")
    assert process(first, 20).created == 20
    assert process(second, 20).created == 10
    assert process(third, 20) == Counts()
    first.rollback()
    assert process(third, 100).created == 20  # all put back
    third.commit()
    second.commit()
    assert_all_done(db, payments)


def test_what_a_worker_rolled_back_is_taken_again_at_once_though_the_line_has_moved_on(db: Database) -> None:
    """Also while nobody looks below the floor. Seen to fail with a floor that follows the claims whatever
    still stands in line.
    """
    shop = Shop(db)
    payments = shop.payments(600)
    slow, fast = db.connect(), db.connect(autocommit=True)
    enqueue(fast, payments)
    assert process(slow, 50).created == 50
    for _ in range(10):
        tick(fast)
        postpone_sweep(fast)
        assert process(fast, 50).created == 50
    slow.rollback()
    postpone_sweep(fast)
    assert process_all(fast).created == 100
    assert_all_done(db, payments)


def test_what_a_producer_commits_late_is_taken_at_once_though_the_line_has_moved_on(db: Database) -> None:
    """Also while nobody looks below the floor. Seen to fail when the floor rises without the lock of the
    generation before (and with a floor that is 50 ms behind, which this one has replaced).
    """
    shop, other = Shop(db), Shop(db)
    late, payments, last = shop.payments(3), other.payments(600), other.payments(100)
    slow, fast = db.connect(), db.connect(autocommit=True)
    enqueue(slow, late)
    enqueue(fast, payments)
    for _ in range(12):
        tick(fast)
        postpone_sweep(fast)
        assert process(fast, 50).created == 50
    slow.commit()
    postpone_sweep(fast)
    assert process(fast).created == 3
    enqueue(fast, last)
    for _ in range(4):
        tick(fast)
        assert process(fast, 25).created == 25
    assert scalar(fast, "select last_value > 3 from farebox.ticket_queue_floor")  # it waits for nobody now
    assert_all_done(db, late + payments + last)


def test_a_producer_ranks_by_the_generation_it_has_locked(db: Database) -> None:
    """It may come to the lock when the generation it has read is over. Seen to fail without a second look."""
    shop = Shop(db)
    payments = shop.payments(1)
    conn, other = db.connect(), db.connect(autocommit=True)
    [number, generation] = other.execute(
        "select 'farebox.ticket_queue_generation'::regclass::oid::int, last_value::int"
        " from farebox.ticket_queue_generation"
    ).fetchone() or (0, 0)
    other.execute("select pg_advisory_lock(%s, %s)", [number, generation])
    storing = Call(lambda: enqueue(conn, payments))
    db.wait_until_blocked(conn)
    other.execute("select setval('farebox.ticket_queue_next_floor', 1000)")
    other.execute("select setval('farebox.ticket_queue_generation', %s)", [generation + 1])
    other.execute("select pg_advisory_unlock(%s, %s)", [number, generation])
    storing.result()
    assert not scalar(other, "select pg_try_advisory_lock(%s, %s)", [number, generation + 1])
    conn.commit()
    assert scalar(other, "select pg_try_advisory_lock(%s, %s)", [number, generation + 1])
    assert scalar(other, "select rank from farebox.ticket_queue") > 1000


def test_whoever_is_not_waited_for_any_longer_is_found_by_the_sweep(db: Database) -> None:
    """A producer and a worker that got stuck do not keep the floor where it was."""
    shop = Shop(db)
    late, payments = shop.payments(3), shop.payments(600)
    producer, worker, fast = db.connect(), db.connect(), db.connect(autocommit=True)
    enqueue(producer, late)
    enqueue(fast, payments)
    assert process(worker, 20).created == 20
    while True:
        fast.execute("select setval('farebox.ticket_queue_tick', 1)")  # as if long ago
        if not process(fast, 50).taken:
            break
    assert scalar(fast, "select last_value > 20 from farebox.ticket_queue_floor")
    producer.commit()
    worker.rollback()
    db.wait_until(
        "select (select taken from farebox.process_ticket_queue()) = 0 and farebox.queue_size() = 0"
    )
    assert_all_done(db, payments + late)


def test_hints_may_say_anything(db: Database) -> None:
    """Whatever the sequences hold (after a crash, a restore, a failover): nothing is lost."""
    shop = Shop(db)
    payments = shop.payments(40)
    with db.connect(autocommit=True) as conn:
        enqueue(conn, payments[:20])
        for name in _HINTS:
            conn.execute("select setval(%s, 9000000000000000000)", [f"farebox.ticket_queue_{name}"])
        enqueue(conn, payments[20:30])
        db.wait_until(
            "select (select taken from farebox.process_ticket_queue()) = 0 and farebox.queue_size() = 0"
        )
        for name in _HINTS:
            conn.execute("select setval(%s, 0)", [f"farebox.ticket_queue_{name}"])
        enqueue(conn, payments[30:])
        process_all(conn)
    assert_all_done(db, payments)


def test_eight_producers_and_four_workers_make_one_ticket_of_each_payment(db: Database) -> None:
    shops = [Shop(db) for _ in range(5)]
    payments = [payment for shop in shops for payment in shop.payments(200)]
    code = db.code(shops[0].company, 150)
    for payment in payments[:150]:
        payment["payment_code"] = code
    produced = threading.Event()

    def produce(number: int) -> int:
        with db.connect(autocommit=True) as conn:
            stored = 0
            # Each payment is stored by two producers.
            for start in (number, number + 1):
                for place in range(start % 8, len(payments), 8 * 5):
                    stored += len(enqueue(conn, payments[place : place + 33 : 8]))
            return stored

    def work() -> Counts:
        with db.connect(autocommit=True) as conn:
            total = Counts()
            while True:
                ended = produced.is_set()
                counts = process_all(conn, 20)
                total = sum_of((total, counts))
                # A claim may pass by what a slow producer committed behind the line; a later one looks there.
                if ended and scalar(conn, "select not exists (select from farebox.ticket_queue)"):
                    return total

    workers = [Call(work) for _ in range(4)]
    stored = sum(together(*(partial(produce, number) for number in range(8))))
    produced.set()
    total = sum_of(worker.result() for worker in workers)
    assert total.taken == total.created + total.duplicates == stored == 2 * len(payments)
    assert total.created == len(payments)
    assert_all_done(db, payments)


def test_workers_and_direct_callers_never_deadlock(db: Database) -> None:
    """They share payments and codes, and meet them in opposite orders."""
    shop = Shop(db)
    codes = [db.code(shop.company, 10_000) for _ in range(4)]
    payments = shop.payments(240)
    for place, payment in enumerate(payments):
        payment["payment_code"] = codes[place % 4]

    def work() -> None:
        with db.connect(autocommit=True) as conn:
            for round_ in range(6):
                enqueue(conn, payments[:: -1 if round_ % 2 else 1])
                process_all(conn, 40)

    def call() -> None:
        with db.connect(autocommit=True) as conn:
            for place in range(0, 240, 40):
                batch = json.dumps(payments[place : place + 40][::-1])
                conn.execute("select farebox.create_tickets(%s)", [batch])

    together(work, work, work, call, call)
    with db.connect(autocommit=True) as conn:
        process_all(conn)
    assert_all_done(db, payments)


def test_dead_requests_that_two_workers_keep_at_once_are_kept_once(db: Database) -> None:
    """In whatever order they meet them. Unsorted inserts deadlock."""
    shop = Shop(db)
    bad = [payment | {"monime_transaction_id": n} for n, payment in enumerate(shop.payments(60))]
    first, second = db.connect(), db.connect()
    enqueue(first, bad)
    first.commit()
    enqueue(second, bad[::-1])
    second.commit()

    def work() -> int:
        with db.connect(autocommit=True) as conn:
            return process_all(conn, 15).rejected

    assert sum(together(work, work, work)) == 120
    assert db.execute("select count(*), sum(times) from farebox.ticket_queue_dead") == [(60, 120)]


def test_a_worker_that_waits_for_a_payment_holds_up_no_other_worker(db: Database) -> None:
    shop = Shop(db)
    contested, rest = shop.payments(1), shop.payments(20)
    other, slow, fast = db.connect(), db.connect(), db.connect()
    other.execute("select farebox.create_ticket(%s)", [json.dumps(contested[0])])
    enqueue(fast, contested)
    fast.commit()
    waiting = Call(lambda: process(slow))
    db.wait_until_blocked(slow)
    enqueue(fast, rest)
    fast.commit()
    assert process(fast).created == 20
    fast.commit()
    other.rollback()
    assert waiting.result().created == 1
    slow.commit()
    assert_all_done(db, contested + rest)


def test_an_attempt_that_was_counted_is_made_though_somebody_passes_by(db: Database) -> None:
    """A claim locks a row for a moment before it sees that it has left the line. With SKIP LOCKED in
    process_queued_request the attempt would count and not be made: three of those, and an innocent is dead.
    """
    shop = Shop(db)
    payments = shop.payments(1)
    conn, passer_by = db.connect(autocommit=True), db.connect()
    [queue_id] = enqueue(conn, payments)
    assert scalar(conn, "select farebox.begin_queued_request()") == queue_id
    passer_by.execute("select from farebox.ticket_queue where id = %s for update", [queue_id])
    call = Call(lambda: scalar(conn, "select created from farebox.process_queued_request(%s)", [queue_id]))
    db.wait_until_blocked(conn)
    passer_by.rollback()
    assert call.result() == 1
    assert_all_done(db, payments)


def test_one_request_at_a_time_is_begun_with_care(db: Database) -> None:
    """Else one that kills the server is blamed on whoever was begun beside it. Sessions take turns."""
    shop = Shop(db)
    payments = shop.payments(3)
    first, second = db.connect(), db.connect(autocommit=True)
    enqueue(second, payments)
    begun = scalar(first, "select farebox.begin_queued_request()")
    call = Call(lambda: scalar(second, "select farebox.begin_queued_request()"))
    db.wait_until_blocked(second)
    first.commit()
    assert call.result() is None
    assert process(second).created == 2
    assert scalar(second, "select created from farebox.process_queued_request(%s)", [begun]) == 1
    assert_all_done(db, payments)


# -- operators ----------------------------------------------------------------------------------------------


def test_resuming_waits_for_a_producer_that_has_seen_the_pause(db: Database) -> None:
    """Without its lock on the pause the producer's request would wait for ever."""
    shop = Shop(db)
    payments = shop.payments(4)
    producer, operator = db.connect(), db.connect()
    operator.execute("select farebox.pause_company_queue(%s)", [shop.company])
    operator.commit()
    enqueue(producer, payments)
    resuming = Call(lambda: scalar(operator, "select farebox.resume_company_queue(%s)", [shop.company]))
    db.wait_until_blocked(operator)
    producer.commit()
    assert resuming.result() == 4
    operator.commit()
    with db.connect(autocommit=True) as conn:
        assert process_all(conn).created == 4
    assert_all_done(db, payments)


def test_of_one_who_pauses_again_and_one_who_resumes_one_comes_first(db: Database) -> None:
    """Once a bug: a request set aside by the first after the second was done waited for ever."""
    shop = Shop(db)
    holder, pauses, resumes = db.connect(), db.connect(autocommit=True), db.connect(autocommit=True)
    enqueue(pauses, shop.payments(1))
    pause = "select farebox.pause_company_queue(%s)"
    pauses.execute(pause, [shop.company])
    # As a request that failed while its company was paused, and that somebody looks at.
    db.execute("update farebox.ticket_queue set ready_at = now(), attempts = 1")
    holder.execute("select from farebox.ticket_queue for update")
    pausing = Call(lambda: scalar(pauses, pause, [shop.company]))
    db.wait_until_blocked(pauses)
    resuming = Call(lambda: scalar(resumes, "select farebox.resume_company_queue(%s)", [shop.company]))
    db.wait_until_blocked(resumes)
    holder.rollback()
    assert (pausing.result(), resuming.result()) == (1, 1)


@pytest.mark.parametrize("operation", ["pause", "resume"])
def test_of_one_who_retries_and_one_who_pauses_or_resumes_one_comes_first(
    db: Database, operation: LiteralString
) -> None:
    """Without the operators' lock: the one holds a request and waits for the pause, the other holds the pause
    and waits for the request. Once a bug (40P01).
    """
    shop = Shop(db)
    holder, retries, operator = db.connect(), db.connect(autocommit=True), db.connect(autocommit=True)
    ids = enqueue(retries, shop.payments(3))
    first, second, dead = ids
    retries.execute(
        "select farebox._keep_dead_requests(array[%s::bigint], array['conflict'], array[null], now())", [dead]
    )
    retries.execute("delete from farebox.ticket_queue where id = %s", [dead])
    retries.execute("select farebox.pause_company_queue(%s)", [shop.company])
    if operation == "pause":
        # As a request that failed while its company was paused; resuming wants those that are set aside.
        db.execute("update farebox.ticket_queue set ready_at = now(), attempts = 1")
    holder.execute("select from farebox.ticket_queue where id = %s for update", [second])
    keys = [f"queue:{queue_id}" for queue_id in ids]
    retrying = Call(
        lambda: retries.execute("select * from farebox.retry_queued_requests(%s)", [keys]).fetchall()
    )
    db.wait_until_blocked(retries)
    call: LiteralString = f"select farebox.{operation}_company_queue(%s)"
    operating = Call(lambda: scalar(operator, call, [shop.company]))
    db.wait_until_blocked(operator)
    holder.rollback()
    [(_, one), (_, two), (_, new)] = retrying.result()
    assert (one, two) == (first, second)
    assert new > dead
    assert operating.result() == 3


def test_an_old_snapshot_resumes_nothing(db: Database) -> None:
    """Once a bug: what was stored since then waited for ever, of a company that was not paused."""
    shop = Shop(db)
    operator, conn = db.connect(), db.connect(autocommit=True)
    conn.execute("select farebox.pause_company_queue(%s)", [shop.company])
    operator.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    operator.execute("select")
    enqueue(conn, shop.payments(1))
    with pytest.raises(psycopg.Error) as error:
        operator.execute("select farebox.resume_company_queue(%s)", [shop.company])
    assert error.value.sqlstate == "TK004"


def test_workers_do_not_wait_for_an_operator_who_pauses_or_resumes(db: Database) -> None:
    shop, other = Shop(db), Shop(db)
    payments, others = shop.payments(5), other.payments(5)
    operator, conn = db.connect(), db.connect(autocommit=True)
    conn.execute("set statement_timeout = '20s'")
    enqueue(conn, payments)
    operator.execute("select farebox.pause_company_queue(%s)", [shop.company])
    enqueue(conn, others)
    assert process(conn).created == 5
    operator.commit()
    assert missing(db, payments) == {payment["monime_transaction_id"] for payment in payments}
    operator.execute("select farebox.resume_company_queue(%s)", [shop.company])
    assert process(conn).taken == 0
    operator.commit()
    assert process(conn).created == 5
    assert_all_done(db, payments + others)


def test_dropping_leaves_what_is_being_processed(db: Database) -> None:
    shop = Shop(db)
    payments = shop.payments(2)
    worker, operator = db.connect(), db.connect(autocommit=True)
    ids = enqueue(operator, payments)
    assert process(worker, 1).created == 1
    keys = [f"queue:{queue_id}" for queue_id in ids]
    dropped = operator.execute("select key from farebox.drop_queued_requests(%s)", [keys]).fetchall()
    assert dropped == [(keys[1],)]
    worker.commit()
    assert missing(db, payments) == {payments[1]["monime_transaction_id"]}


def test_a_caller_with_an_old_snapshot_is_told_to_retry_and_loses_nothing(db: Database) -> None:
    shop = Shop(db)
    payments = shop.payments(20)
    old, conn = db.connect(), db.connect(autocommit=True)
    enqueue(conn, payments)
    old.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    old.execute("select")
    assert process(conn, 10).created == 10
    try:
        process(old, 10)
    except psycopg.errors.SerializationFailure:
        old.rollback()
    assert process(old, 10).created == 10
    old.commit()
    assert_all_done(db, payments)
