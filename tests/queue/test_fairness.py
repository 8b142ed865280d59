"""Who is next: every company in turn, within a company the oldest; and what a claim costs."""

from uuid import UUID

from tests.core.support import Call, scalar
from tests.queue.support import (
    Shop,
    assert_all_done,
    enqueue,
    missing,
    postpone_sweep,
    process,
    process_all,
    tick,
)
from tests.support.database import Database


def test_a_single_request_does_not_wait_behind_another_companys_backlog(db: Database) -> None:
    """Ten thousand wait; whoever comes later is in the next batch."""
    big, small = Shop(db), Shop(db)
    backlog = big.payments(10_000)
    with db.connect(autocommit=True) as conn:
        for place in range(0, len(backlog), 2_000):
            enqueue(conn, backlog[place : place + 2_000])
        for _ in range(5):
            single = small.payments(1)
            enqueue(conn, single)
            assert process(conn, 100).created == 100
            assert missing(db, single) == set()
            tick(conn)


def test_backlogs_are_served_in_turn_however_big(db: Database) -> None:
    shops = [Shop(db) for _ in range(4)]
    with db.connect(autocommit=True) as conn:
        for shop, count in zip(shops, (3_000, 1_000, 200, 200), strict=True):
            enqueue(conn, shop.payments(count))
        assert process(conn, 400).created == 400
        served: dict[UUID, int] = dict(
            db.execute("select company_id, count(*) from farebox.tickets group by 1")
        )
        assert [served[shop.company] for shop in shops] == [100] * 4


def test_a_mixed_batch_is_ranked_by_each_companys_own_count(db: Database) -> None:
    """One request among a thousand of another in the same batch is not the thousandth."""
    big, small = Shop(db), Shop(db)
    payments = big.payments(999)
    single = small.payments(1)
    with db.connect(autocommit=True) as conn:
        enqueue(conn, payments + single)
        assert process(conn, 10).created == 10
        assert missing(db, single) == set()


def test_within_a_company_the_oldest_are_taken_first(db: Database) -> None:
    shop, other = Shop(db), Shop(db)
    payments = shop.payments(120)
    with db.connect(autocommit=True) as conn:
        for place in range(0, 120, 7):
            enqueue(conn, payments[place : place + 7])
            enqueue(conn, other.payments(3))
            if place % 3 == 0:
                process(conn, 5)
                done = 120 - len(missing(db, payments))
                assert missing(db, payments[:done]) == set()
        while process(conn, 9).taken:
            done = 120 - len(missing(db, payments))
            assert missing(db, payments[:done]) == set()
    assert_all_done(db, payments)


def test_a_company_that_was_idle_gets_no_credit_for_it(db: Database) -> None:
    """Its burst shares with the backlog, it does not displace it."""
    steady, bursting = Shop(db), Shop(db)
    with db.connect(autocommit=True) as conn:
        enqueue(conn, steady.payments(4_000))
        for _ in range(10):
            tick(conn)
            process(conn, 100)
        before = scalar(conn, "select count(*) from farebox.tickets where company_id = %s", [steady.company])
        enqueue(conn, bursting.payments(2_000))
        for _ in range(10):
            process(conn, 100)
        after = scalar(conn, "select count(*) from farebox.tickets where company_id = %s", [steady.company])
        # Half of a thousand, less what the floor is behind.
        assert after - before >= 300


# -- what a claim costs -------------------------------------------------------------------------------------

_LINE = "farebox.idx_ticket_queue_line"
_READ = "select pg_stat_get_xact_tuples_returned(%s::regclass)"


def _entries_read(db: Database, limit: int) -> int:
    """How many entries of the line's index one batch reads."""
    with db.connect() as conn:
        before = scalar(conn, _READ, [_LINE])
        assert process(conn, limit).taken == limit
        read: int = scalar(conn, _READ, [_LINE]) - before
        conn.commit()
        return read


def test_a_claim_reads_what_it_takes_however_long_the_line_and_whatever_statistics_say(db: Database) -> None:
    """Also when the table was last analysed while it was empty. Without enable_sort = off a claim then goes
    by another index and reads and sorts everything.
    """
    shop = Shop(db)
    with db.connect(autocommit=True) as conn:
        enqueue(conn, shop.payments(2_000))
        never_analysed = _entries_read(db, 20)
        process_all(conn, 1_000)
        conn.execute("vacuum analyze farebox.ticket_queue")
        enqueue(conn, shop.payments(2_000))
        analysed_when_empty = _entries_read(db, 20)
        conn.execute("vacuum analyze farebox.ticket_queue")
        analysed = _entries_read(db, 20)
    assert max(never_analysed, analysed_when_empty, analysed) <= 100


def test_a_claim_does_not_wade_through_the_dead_while_an_old_snapshot_is_held(db: Database) -> None:
    """Nothing that is deleted meanwhile can be removed; without the floor each claim reads all of it."""
    shop = Shop(db)
    with db.connect() as old, db.connect(autocommit=True) as conn:
        old.execute("set transaction isolation level repeatable read")
        old.execute("select count(*) from farebox.companies")
        read: list[int] = []
        for _ in range(10):
            enqueue(conn, shop.payments(300))
            for _ in range(3):
                tick(conn)
                postpone_sweep(conn)
                read.append(_entries_read(db, 100))
    # Of 3,000 deleted ones: those of the last few claims, not all that went before.
    assert max(read[10:]) <= 1_000


def test_a_look_below_the_floor_that_took_long_is_not_repeated_at_once(db: Database) -> None:
    """Here it waits for a lock. Once a bug: after 0.6 s, or a million dead rows, every claim looked."""
    with db.connect() as holder, db.connect(autocommit=True) as conn:
        holder.execute("lock table farebox.ticket_queue")
        looking = Call(lambda: process(conn))
        db.wait_until_blocked(conn)
        holder.execute("select pg_sleep(0.7)")
        holder.rollback()
        assert looking.result().taken == 0
        waits = scalar(conn, "select last_value from farebox.ticket_queue_sweep") - scalar(
            conn, "select (extract(epoch from clock_timestamp()) * 1000)::bigint"
        )
    assert 30_000 < waits <= 60_000
