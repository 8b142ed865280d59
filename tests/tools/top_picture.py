"""The picture of `farebox top` in driver/OPERATIONS.md: a real server, real load, a real terminal (tmux).

    python -m tests.tools.top_picture driver/top.svg

Sellers sell, repeat payments and change some; the queue has no worker, and somebody forgot to commit.
"""

import html
import io
import itertools
import json
import re
import shutil
import sys
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from farebox import Farebox
from farebox.demo.catalogue import COMPANIES
from farebox.demo.load import load_catalogue
from tests.cli.commands import PROGRAM
from tests.operate.support import Terminal
from tests.support.database import Database
from tests.support.servers import Farm

_CODES: Final = {"*715*3#": 20_000, "*715*6#": 12_000, "*715*9#": 5_000}
_HELD: Final = "*715*8#"
# Rich's own frame without its fonts, which it would fetch from elsewhere.
_SVG: Final = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: monospace; font-size: {char_height}px; line-height: {line_height}px; }}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


_TEXT: Final = re.compile(
    r'<text (class="[^"]*") x="([\d.]+)" (y="[\d.]+") textLength="([\d.]+)"([^>]*)>(.*?)</text>'
)


def _word_by_word(match: re.Match[str]) -> str:
    """Each word at its own place: not every program that shows the picture keeps spaces and widths."""
    look, x, y, length, rest, words = match.groups()
    line = html.unescape(words)
    cell = float(length) / len(line)
    return "".join(
        f'<text {look} x="{float(x) + word.start() * cell:.1f}" {y}'
        f' textLength="{len(word[0]) * cell:.1f}"{rest}>{html.escape(word[0])}</text>'
        for word in re.finditer(r"[^\s\xa0]+", line)
    )


def _payments(serial: Iterator[int], count: int, code: str | None = None) -> list[dict[str, Any]]:
    routes = [
        (company.id, route) for company in COMPANIES if company.status == "active" for route in company.routes
    ]
    made: list[dict[str, Any]] = []
    for number in itertools.islice(serial, count):
        # Not evenly: some companies are larger than others.
        company_id, route = routes[number * number % len(routes)] if code is None else routes[0]
        made.append(
            {
                "company_id": str(company_id),
                "route_id": str(route.id),
                "passenger_phone": f"+23277{number % 10**6:06d}",
                "monime_transaction_id": f"pay-picture-{number}",
                "monime_otp": f"{number % 10**6:06d}",
                "amount": route.fare,
                "payment_code": code,
            }
        )
    return made


@contextmanager
def _selling(db: Database, serial: Iterator[int]) -> Generator[None]:
    """New payments, some of them again, a few changed, a few with a masked phone; twenty batches a second."""
    stop = threading.Event()

    def sell() -> None:
        with db.connect(autocommit=True) as conn:
            for code in itertools.cycle([None, None, *_CODES, next(iter(_CODES))]):
                if stop.wait(0.05):
                    return
                new = _payments(serial, 60, code)
                masked = [payment | {"passenger_phone": "+23277***"} for payment in _payments(serial, 1)]
                batch = [*new, *new[:9], new[9] | {"monime_otp": "0000"}, *masked]
                conn.execute("select count(*) from farebox.create_tickets(%s::json)", [json.dumps(batch)])

    thread = threading.Thread(target=sell)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _fill(db: Database, serial: Iterator[int]) -> None:
    db.execute("create extension pg_stat_statements")
    with Farebox(db.dsn) as client:
        load_catalogue(client)
        owner = str(COMPANIES[0].id)
        terms = [*_CODES.items(), (_HELD, 1000)]
        client.issue_payment_codes(
            [{"company_id": owner, "code": code, "total_tickets": total} for code, total in terms]
        )
        for code, total in _CODES.items():
            client.create_tickets(_payments(serial, total // 2, code))
        client.enqueue_many(_payments(serial, 212))


def _photograph(db: Database, terminal: Terminal) -> str:
    """The screen with its colours, once all has been measured twice and somebody waits."""
    holder = db.connect(dsn=f"{db.dsn}?application_name=psql")
    holder.execute("select from farebox.payment_codes where code = %s for update", [_HELD])
    waiter = db.connect(autocommit=True)
    batch = json.dumps(_payments(itertools.count(10**6), 1, _HELD))
    waiter.pgconn.send_query(f"select count(*) from farebox.create_tickets('{batch}')".encode())
    db.wait_until_blocked(waiter)
    terminal.wait_for(
        lambda screen: (
            "waits" in screen
            and re.search(r"conflicts +\d", screen) is not None
            and re.search(r"oldest +[3-9]\.\d s .*oldest +\d", screen) is not None
        )
    )
    screen = terminal.screen(colours=True)
    holder.rollback()
    waiter.pgconn.get_result()
    return screen


def main(target: Path) -> None:
    """Takes the picture and writes it."""
    farm = Farm(Farm.make_root())
    serial = itertools.count(1)
    try:
        with farm.private("pg18", autovacuum="on", shared_preload_libraries="pg_stat_statements") as server:
            server.create_database("buses")
            db = Database(server, "buses")
            _fill(db, serial)
            with _selling(db, serial):
                program = [*PROGRAM, "top", "--interval", "1"]
                terminal = Terminal(farm.folder("tmux") / "socket", program, {"FAREBOX_DSN": db.dsn})
                try:
                    screen = _photograph(db, terminal)
                finally:
                    terminal.close()
            db.close()
    finally:
        shutil.rmtree(farm.root)
    console = Console(record=True, width=110, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(screen.rstrip()))
    drawn = console.export_svg(title="farebox top", code_format=_SVG, unique_id="top")
    target.write_text(re.sub(r"\s+\n", "\n", _TEXT.sub(_word_by_word, drawn)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
