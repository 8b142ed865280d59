"""The examples of the README do what they say."""

import re
from pathlib import Path
from typing import Any

from farebox import Farebox
from farebox.cli.main import cli
from farebox.demo.load import load_catalogue
from tests.support.database import Database

README = (Path(__file__).parents[2] / "README.md").read_text()


def block(language: str) -> str:
    [found] = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return str(found)


def test_the_sql_example_creates_a_ticket(db: Database) -> None:
    with Farebox(db.dsn) as client:
        load_catalogue(client)
    [(ordinal, outcome, reason, ticket, differing)] = db.connect(dsn=db.login("farebox_app")).execute(
        block("sql").encode()
    )
    assert (ordinal, outcome, reason, differing) == (1, "created", None, None)
    assert ticket is not None


async def test_the_python_example_sells_to_everybody_at_once(db: Database, capsys: Any) -> None:
    company = db.company()
    payments = [db.payment(company, db.route(company)) for _ in range(200)]
    conflict = payments[0] | {"amount": 1}
    code = block("python").replace("postgresql://app@localhost/farebox", db.login("farebox_app"))
    names: dict[str, Any] = {}
    exec(code, names)
    assert await names["sell"](payments) == (200, [])
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{payment['monime_transaction_id']} created None None" for payment in payments]
    # Only now: beside its payment it may travel in another batch, and be the first.
    assert await names["sell"]([conflict]) == (0, [None])
    told = capsys.readouterr().out
    assert told == f"{payments[0]['monime_transaction_id']} conflict None ('amount',)\n"


def test_every_command_it_names_exists() -> None:
    names = set(re.findall(r"^farebox (\w+)", block("sh"), re.MULTILINE))
    assert names
    assert names <= set(cli.commands)


def test_every_page_it_links_exists() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (Path(__file__).parents[2] / target).exists(), target
