"""`farebox company|route|code`."""

import json
from pathlib import Path

from tests.cli.commands import farebox
from tests.support.database import Database


def test_a_company_is_added_changed_and_listed(db: Database) -> None:
    added = farebox("company", "add", "--name", "Cotton Tree Coaches", "--json", dsn=db.dsn)
    assert added.code == 0
    assert added.document["outcome"] == "created"
    company = added.document["id"]

    changed = farebox("company", "add", "--id", company, "--commission-rate", "0.0325", "--json", dsn=db.dsn)
    assert (changed.code, changed.document["outcome"]) == (0, "updated")

    [listed] = farebox("company", "list", "--json", dsn=db.dsn).rows
    assert (listed["id"], listed["name"]) == (company, "Cotton Tree Coaches")
    assert listed["commission_rate"] == "0.0325"
    table = farebox("company", "list", dsn=db.dsn)
    assert company in table.out
    assert "Cotton Tree Coaches" in table.out


def test_what_the_database_refuses_is_told_with_its_reason(db: Database) -> None:
    refused = farebox("company", "add", "--name", "X", "--commission-rate", "5%", dsn=db.dsn)
    assert refused.code == 1
    assert "commission_rate_invalid" in refused.out


def test_routes_are_added_and_listed_with_fares_in_leones(db: Database) -> None:
    company = str(db.company())
    fields = ("--name", "Freetown – Bo", "--origin", "Freetown", "--destination", "Bo", "--fare", "14700")
    assert farebox("route", "add", "--company-id", company, *fields, dsn=db.dsn).code == 0
    table = farebox("route", "list", company, dsn=db.dsn)
    assert "Freetown – Bo" in table.out
    assert "147.00" in table.out
    assert farebox("route", "list", company, "--json", dsn=db.dsn).document["fare"] == 14700


def test_codes_are_issued_changed_cancelled_and_listed(db: Database) -> None:
    company = str(db.company())
    fields = ("--company-id", company, "--code", "*715*1#")
    assert farebox("code", "add", *fields, "--total-tickets", "50", dsn=db.dsn).code == 0
    changed = farebox("code", "add", *fields, "--total-tickets", "60", "--json", dsn=db.dsn)
    assert changed.document["outcome"] == "updated"
    cancelled = farebox("code", "cancel", company, "*715*1#", "nothing", "--json", dsn=db.dsn)
    assert cancelled.code == 1
    assert [row["outcome"] for row in cancelled.rows] == ["cancelled", "rejected"]
    [code] = farebox("code", "list", company, "--json", dsn=db.dsn).rows
    assert (code["code"], code["total_tickets"], code["status"]) == ("*715*1#", 60, "cancelled")


def test_codes_whose_time_is_over_are_expired(db: Database) -> None:
    company = db.company()
    for _ in range(3):
        db.code(company, 5, expires_at=db.value("select farebox._now() + interval '1 hour'"))
    db.set_clock(db.value("select farebox._now() + interval '2 hours'"))
    assert farebox("code", "expire", "--json", dsn=db.dsn).document == {"expired": 3}
    assert farebox("code", "expire", "--json", dsn=db.dsn).document == {"expired": 0}


def test_many_come_from_a_file_and_keep_their_numbers(db: Database, tmp_path: Path) -> None:
    company = str(db.company())
    codes = [{"company_id": company, "code": f"K{n}", "total_tickets": 5} for n in range(2500)]
    codes[2400] = {"company_id": company, "code": "K2400", "total_tickets": -1}
    path = tmp_path / "codes.json"
    path.write_text(json.dumps(codes))
    ran = farebox("code", "add", "--file", path, "--json", dsn=db.dsn)
    assert ran.code == 1
    assert [row["ordinal"] for row in ran.rows] == list(range(1, 2501))
    assert [row["ordinal"] for row in ran.rows if row["outcome"] != "created"] == [2401]


def test_lists_go_on_where_they_ended(db: Database) -> None:
    company = db.company()
    routes = sorted(str(db.route(company)) for _ in range(7))
    first = farebox("route", "list", company, "--limit", 3, dsn=db.dsn)
    assert f"--after {routes[2]}" in first.err
    assert routes[3] not in first.out
    rest = farebox("route", "list", company, "--after", routes[2], "--json", dsn=db.dsn)
    assert [row["id"] for row in rest.rows] == routes[3:]
    exact = farebox("route", "list", company, "--limit", 7, dsn=db.dsn)
    assert "--after" not in exact.err


def test_all_lists_more_than_a_page(db: Database) -> None:
    company = db.company()
    db.execute(
        "insert into farebox.routes (company_id, name, origin, destination, fare)"
        " select %s, 'Route ' || n, 'A', 'B', 100 from generate_series(1, 2345) n",
        [company],
    )
    rows = farebox("route", "list", company, "--all", "--json", dsn=db.dsn).rows
    assert len({row["id"] for row in rows}) == len(rows) == 2345


def test_fields_and_file_exclude_each_other(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("{}")
    assert farebox("company", "add").code == 2
    assert farebox("company", "add", "--name", "X", "--file", path).code == 2


def test_a_file_that_is_no_json_object_is_wrong_usage(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for text in ("{", "[1]", "[[]]"):
        path.write_text(text)
        ran = farebox("company", "add", "--file", path, dsn="host=127.0.0.1 port=1")
        assert ran.code == 2
        assert "error:" in ran.err


def test_data_cannot_steer_the_terminal(db: Database) -> None:
    db.execute("insert into farebox.companies (name) values ('\x1b]0;gotcha\x07 [bold]\u202ename')")
    out = farebox("company", "list", dsn=db.dsn).out
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "[bold]" in out
