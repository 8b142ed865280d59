"""`farebox top`: what it reads, and how it looks in a real terminal (tmux)."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from farebox.monitoring.board import read
from tests.cli.commands import PROGRAM, farebox
from tests.operate.support import Terminal
from tests.support.database import Database
from tests.support.servers import Farm

REPO = Path(__file__).parents[2]


def sell(db: Database, count: int) -> str:
    """So many tickets of one company and code, and as many requests of it in the queue; the code."""
    company = db.company()
    route = db.route(company)
    code = db.code(company, 100)
    batch = [db.payment(company, route, payment_code=code) for _ in range(count)]
    db.execute("select count(*) from farebox.create_tickets(%s::json)", [json.dumps(batch)])
    queued = [db.payment(company, route) for _ in range(count)]
    db.execute("select count(*) from farebox.enqueue_tickets(%s::json)", [json.dumps(queued)])
    db.execute("select pg_stat_force_next_flush()")
    db.execute("select 1")
    return code


def test_rates_come_from_two_readings(db: Database) -> None:
    before = read(db.dsn)
    assert before.rate(None, "farebox_rows_written_total", table="tickets", operation="insert") is None
    sell(db, 30)
    now = read(db.dsn)
    rate = now.rate(before, "farebox_rows_written_total", table="tickets", operation="insert")
    assert rate is not None
    assert round(rate * (now.at - before.at)) == 30
    # A counter that was reset is no negative rate.
    assert before.rate(now, "farebox_rows_written_total", table="tickets", operation="insert") is None
    assert now.rate(before, "farebox_unheard_of_total") is None


def test_companies_codes_and_locks(db: Database) -> None:
    code = sell(db, 5)
    holder, waiter = db.connect(), db.connect(autocommit=True)
    holder.execute("lock table farebox.companies in share mode")
    waiter.pgconn.send_query(b"update farebox.companies set name = 'x'")
    db.wait_until_blocked(waiter)
    now = read(db.dsn)
    [company] = now.companies
    assert (company["tickets"], company["queued"]) == (5, 5)
    [hot] = now.codes
    assert (hot["name"], hot["tickets"], hot["used"], hot["total"]) == (code, 5, 5, 100)
    assert (waiter.info.backend_pid, holder.info.backend_pid) in [
        (row["pid"], row["blocker"]) for row in now.locks
    ]
    holder.rollback()
    waiter.pgconn.get_result()


def test_one_picture_without_a_terminal(db: Database) -> None:
    sell(db, 5)
    ran = farebox("top", "--interval", 0.2, dsn=db.dsn)
    assert ran.code == 0
    for words in ("tickets created", "queued", "workers", "hot codes", "oldest transaction"):
        assert words in ran.out
    document = farebox("top", "--interval", 0.2, "--json", dsn=db.dsn).document
    assert (document["up"], document["queue_size"]) == (True, 5)


def test_a_worker_may_watch_and_others_see_what_they_may(db: Database) -> None:
    sell(db, 5)
    assert len(read(db.login("farebox_worker")).companies) == 1
    assert read(db.login("farebox_app")).companies == []


def test_a_database_that_is_down_is_told(farm: Farm) -> None:
    ran = farebox("top", "--once", "--interval", 0.2, dsn=f"host={farm.root} connect_timeout=2")
    assert "the database does not answer" in ran.out


def test_the_picture_of_the_guide_is_of_this_version_and_asks_nothing_of_others() -> None:
    """Taken by tests/tools/top_picture.py; its labels are those of now."""
    drawn = (REPO / "driver/top.svg").read_text()
    words = set(re.findall(r">([^<>]+)</text>", drawn))
    code = (REPO / "driver/farebox/cli/top.py").read_text()
    labels = re.findall(r'^ +\("([^"]+)", ', code, re.MULTILINE)
    assert {"duplicates", "conflicts"} <= set(labels)
    assert {word for label in labels for word in label.split()} <= words
    assert re.findall(r"https?://[^\s\"')]+", drawn) == ["http://www.w3.org/2000/svg"]
    assert "](top.svg)" in (REPO / "driver/OPERATIONS.md").read_text()


@pytest.fixture
def terminal(farm: Farm, db: Database) -> Iterator[Terminal]:
    folder = farm.folder("tmux")
    terminal = Terminal(folder / "socket", [*PROGRAM, "top", "--interval", "0.2"], {"FAREBOX_DSN": db.dsn})
    try:
        yield terminal
    finally:
        terminal.close()


def test_it_runs_in_a_terminal_and_obeys_keys(db: Database, terminal: Terminal) -> None:
    terminal.wait_for(lambda screen: "farebox top" in screen and "nobody" in screen)
    code = sell(db, 20)
    screen = terminal.wait_for(lambda screen: code in screen)
    assert "20 " in screen
    assert max(map(len, screen.splitlines())) <= 110
    terminal.press("s")
    terminal.wait_for(lambda screen: "s sort (waiting)" in screen)
    terminal.press("p")
    terminal.wait_for(lambda screen: "PAUSED" in screen)
    more = sell(db, 3)
    terminal.press("p")
    terminal.wait_for(lambda screen: more in screen and "PAUSED" not in screen)
    terminal.press("q")
    terminal.wait_for(lambda screen: screen == "")
