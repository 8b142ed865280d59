"""Section 6 by real logins: what each can reach, and what it tries in vain to get further."""

import json
from typing import LiteralString
from urllib.parse import urlsplit
from uuid import UUID

import pytest
from psycopg.errors import InsufficientPrivilege

from tests.core.support import Connection, Shop, create, create_one, said, scalar
from tests.support.database import Database

_TABLES = ("companies", "routes", "payment_codes", "tickets", "transactions", "unapplied_payments")


@pytest.fixture
def shops(db: Database) -> list[Shop]:
    """Two companies, each with a row in every table."""
    shops = [Shop(db), Shop(db)]
    with db.connect(autocommit=True) as conn:
        for shop in shops:
            code = db.code(shop.company, 5)
            create(conn, *shop.payments(1, payment_code=code), *shop.payments(1, amount=0))
    return shops


def _login(db: Database, *groups: str, bound_to: UUID | None = None) -> Connection:
    dsn = db.login(*groups)
    if bound_to is not None:
        db.execute("select farebox.bind_company_login(%s, %s)", [_name(dsn), bound_to])
    return db.connect(dsn=dsn, autocommit=True)


def _name(dsn: str) -> str:
    name = urlsplit(dsn).username
    assert name is not None
    return name


def _companies_seen(conn: Connection) -> set[UUID]:
    """Whose rows it sees, in all tables together."""
    seen: set[UUID] = set()
    for table in _TABLES:
        column = "id" if table == "companies" else "company_id"
        rows = conn.execute(f"select {column} from farebox.{table}".encode()).fetchall()
        assert bool(rows) == bool(seen) or table == "companies"
        seen.update(row[0] for row in rows)
    return seen


def _denied(conn: Connection, *statements: LiteralString) -> None:
    for statement in statements:
        with pytest.raises(InsufficientPrivilege):
            conn.execute(statement)


# -- companies ----------------------------------------------------------------------------------------------


def test_a_bound_login_sees_its_own_company_whatever_it_sets(db: Database, shops: list[Shop]) -> None:
    mine, other = (shop.company for shop in shops)
    conn = _login(db, "farebox_company", bound_to=mine)
    for setting in ("", str(mine), str(other), "junk", "{", "null"):
        conn.execute("select set_config('farebox.company_id', %s, false)", [setting])
        assert _companies_seen(conn) == {mine}
    conn.execute("set role farebox_company")
    assert _companies_seen(conn) == {mine}
    # No isolation level, cursor or transaction makes a difference.
    with conn.transaction():
        conn.execute("set transaction isolation level serializable")
        conn.execute("select set_config('farebox.company_id', %s, true)", [str(other)])
        assert _companies_seen(conn) == {mine}


def test_an_unbound_login_sees_the_company_that_is_set_and_nothing_when_none_is(
    db: Database, shops: list[Shop]
) -> None:
    one, two = (shop.company for shop in shops)
    conn = _login(db, "farebox_company")
    assert _companies_seen(conn) == set()
    for setting, seen in (
        (str(one), {one}),
        (str(two).upper(), {two}),
        (f" {one} ", {one}),
        ("", set[UUID]()),
        ("junk", set[UUID]()),
        ("' or true --", set[UUID]()),
        (f"{one},{two}", set[UUID]()),
        ("%", set[UUID]()),
        (str(UUID(int=0)), set[UUID]()),
    ):
        conn.execute("select set_config('farebox.company_id', %s, false)", [setting])
        assert _companies_seen(conn) == seen
    conn.execute("reset farebox.company_id")
    assert _companies_seen(conn) == set()
    # A setting of the transaction ends with it: a pooled connection does not carry it to the next client.
    with conn.transaction():
        conn.execute("select set_config('farebox.company_id', %s, true)", [str(one)])
        assert _companies_seen(conn) == {one}
    assert _companies_seen(conn) == set()


def test_a_prepared_statement_follows_the_setting(db: Database, shops: list[Shop]) -> None:
    """The plan is kept, the answer is not."""
    conn = _login(db, "farebox_company")
    query = "select count(*) from farebox.tickets where company_id = %s"
    for shop in [*shops, *shops] * 5:
        conn.execute("select set_config('farebox.company_id', %s, false)", [str(shop.company)])
        counts = [conn.execute(query, [s.company], prepare=True).fetchone() for s in shops]
        assert counts == [(1,) if s is shop else (0,) for s in shops]


def test_a_bound_login_cannot_change_who_it_is(db: Database, shops: list[Shop]) -> None:
    conn = _login(db, "farebox_company", bound_to=shops[0].company)
    other = _name(db.login("farebox_company"))
    db.execute("select farebox.bind_company_login(%s, %s)", [other, shops[1].company])
    _denied(
        conn,
        "select * from farebox.company_logins",
        "update farebox.company_logins set company_id = company_id",
        "delete from farebox.company_logins",
        "insert into farebox.company_logins values (current_user, gen_random_uuid())",
        "select farebox.bind_company_login(current_user, null)",
        "set session authorization postgres",
        "select set_config('session_authorization', 'postgres', false)",
        "set role postgres",
        "set role farebox_owner",
        "set role farebox_admin",
        "alter table farebox.tickets disable row level security",
        "create policy mine on farebox.tickets using (true)",
        "create or replace function farebox._login_company() returns uuid language sql return null",
        "grant farebox_admin to current_user",
        "alter role farebox_company bypassrls",
        "select farebox.create_tickets('[]')",
        "select farebox._login_company() from farebox.company_logins",
    )
    with pytest.raises(InsufficientPrivilege):
        conn.execute("select set_config('role', %s, false)", [other])
    # Asked to leave the policies out, the server refuses instead.
    conn.execute("set row_security = off")
    _denied(conn, "select * from farebox.tickets", "copy farebox.tickets to stdout")
    conn.execute("reset row_security")
    assert _companies_seen(conn) == {shops[0].company}


def test_a_login_that_may_act_as_another_still_sees_its_own_company(db: Database, shops: list[Shop]) -> None:
    second = _name(db.login("farebox_company"))
    db.execute("select farebox.bind_company_login(%s, %s)", [second, shops[1].company])
    conn = _login(db, "farebox_company", second, bound_to=shops[0].company)
    conn.execute("select set_config('role', %s, false)", [second])
    assert _companies_seen(conn) == {shops[0].company}
    # A trusted login that is not bound itself gets no more than whom it acts as, whatever it sets.
    conn = _login(db, "farebox_company", second)
    conn.execute("select set_config('role', %s, false)", [second])
    conn.execute("select set_config('farebox.company_id', %s, false)", [str(shops[0].company)])
    assert _companies_seen(conn) == {shops[1].company}


def test_a_company_writes_nothing(db: Database, shops: list[Shop]) -> None:
    conn = _login(db, "farebox_company", bound_to=shops[0].company)
    for table in _TABLES:
        for statement in (
            f"insert into farebox.{table} select * from farebox.{table}",
            f"update farebox.{table} set company_id = null"
            if table != "companies"
            else "update farebox.companies set status = 'active'",
            f"delete from farebox.{table}",
            f"truncate farebox.{table}",
            f"lock table farebox.{table} in access exclusive mode",
            f"select * from farebox.{table} for update",
        ):
            with pytest.raises(InsufficientPrivilege), conn.transaction():
                conn.execute(statement.encode())


def test_a_cheap_function_does_not_see_others_rows_before_the_policy(db: Database, shops: list[Shop]) -> None:
    """Nor does an error message, an operator of its own, or the statistics."""
    db.execute("analyze")
    conn = _login(db, "farebox_company", bound_to=shops[0].company)
    told: list[str] = []
    conn.add_notice_handler(lambda notice: told.append(notice.message_primary or ""))
    conn.execute(
        "create function pg_temp.tell(text) returns boolean language plpgsql cost 0.0000001"
        " as $$ begin raise notice '%', $1; return true; end $$"
    )
    conn.execute("create operator pg_temp.=! (leftarg = text, rightarg = text, function = texteq)")
    conn.execute("select 1 from farebox.tickets where pg_temp.tell(company_id::text)")
    conn.execute("select 1 from farebox.unapplied_payments where pg_temp.tell(company_id::text)")
    conn.execute(
        "select 1 from farebox.tickets as t join farebox.routes as r on pg_temp.tell(r.company_id::text)"
    )
    assert set(told) == {str(shops[0].company)}
    # Would fail on a row of the other company.
    query = "select from farebox.tickets where 1 / (case when company_id = %s then 0 else 1 end) = 1"
    assert len(conn.execute(query, [shops[1].company]).fetchall()) == 1
    rows = conn.execute("select count(*) from pg_stats where schemaname = 'farebox'").fetchone()
    assert rows == (0,)


def test_the_request_of_one_company_is_not_told_to_another(db: Database, shops: list[Shop]) -> None:
    """Both claim one payment, whichever comes first, in one batch or two, and whoever gets it in the end."""
    secret = {"monime_otp": "SECRET1", "passenger_phone": "+23276555555"}
    with db.connect(autocommit=True) as conn:
        for first, second in (shops, shops[::-1]):
            [claim, two, three] = first.payments(3, amount=0, **secret)
            theirs = {
                "company_id": str(second.company),
                "route_id": str(second.route),
                "monime_otp": "OTHER1",
            }
            create(conn, claim)
            create(conn, claim | theirs)
            create(conn, two, two | theirs)
            create(conn, three)
            assert create_one(conn, three | theirs | {"amount": 5}).outcome == "created"
    for mine, foreign in (shops, shops[::-1]):
        reader = _login(db, "farebox_company", bound_to=mine.company)
        seen = reader.execute("select u::text from farebox.unapplied_payments as u").fetchall()
        assert seen
        assert not [row for (row,) in seen if str(foreign.company) in row]


# -- applications, workers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("group", ["farebox_app", "farebox_worker"])
def test_applications_and_workers_reach_no_table(db: Database, shops: list[Shop], group: str) -> None:
    conn = _login(db, group)
    relations = db.execute(
        "select relname::text from pg_class"
        " where relnamespace = 'farebox'::regnamespace and relkind in ('r', 'S')"
    )
    for (relation,) in relations:
        for statement in (f"select * from farebox.{relation}", f"select count(*) from farebox.{relation}"):
            with pytest.raises(InsufficientPrivilege):
                conn.execute(statement.encode())
    for table in _TABLES:
        for statement in (f"delete from farebox.{table}", f"truncate farebox.{table}"):
            with pytest.raises(InsufficientPrivilege):
                conn.execute(statement.encode())


def test_each_does_its_own_work_and_not_the_others(db: Database, shops: list[Shop]) -> None:
    app, worker = _login(db, "farebox_app"), _login(db, "farebox_worker")
    assert said(create(app, *shops[0].payments(2))) == ["created"] * 2
    assert scalar(app, "select count(*) from farebox.pending_tickets(%s)", [shops[0].company]) == 3
    assert scalar(worker, "select count(*) from farebox.verify()") == 0
    assert scalar(worker, "select farebox.record_missing_transactions()") == 0
    _denied(
        app,
        "select farebox.record_missing_transactions()",
        "select farebox.apply_unapplied_payments()",
        "select farebox.upsert_companies('[]')",
        "select farebox.issue_payment_codes('[]')",
        "select farebox.verify()",
        "select farebox._read_requests('[]', false)",
        "select farebox._now()",
        "select farebox._keep_unapplied_payments('[]', null, null, now())",
    )
    _denied(
        worker,
        "select farebox.create_tickets('[]')",
        "select farebox.get_ticket(gen_random_uuid())",
        "select farebox.upsert_companies('[]')",
        "select farebox.list_unapplied_payments()",
    )


def test_a_stranger_does_nothing(db: Database, shops: list[Shop]) -> None:
    conn = _login(db)
    _denied(
        conn,
        "select farebox.create_tickets('[]')",
        "select * from farebox.companies",
        "select farebox.verify()",
        "select farebox._uuid_v7()",
        "create table farebox.mine ()",
        "create temporary table mine (x farebox.ticket_outcome)",
    )


# -- hijacking ----------------------------------------------------------------------------------------------

# Functions and operators that the bodies use without a schema; each raises when it is called.
_FUNCTIONS = [
    *("length(text)", "btrim(text, text)", "json_typeof(json)", "json_array_length(json)", "round(numeric)"),
    *(
        "translate(text, text, text)",
        "replace(text, text, text)",
        "round(numeric, integer)",
        "to_hex(integer)",
    ),
    *("lpad(text, integer, text)", "left(text, integer)", "json_build_array(json)", "current_setting(text)"),
    *(
        "current_setting(text, boolean)",
        "format(text, text)",
        "array_remove(text[], text)",
        "cardinality(anyarray)",
    ),
    *("json_array_elements(json)", "gen_random_uuid()", "clock_timestamp()", "substring(text, text)"),
    *("pg_notify(text, text)", "lower(text)", "now()", "hashtext(text)"),
]
_OPERATORS = [
    ("=", "text", "text"),
    ("=", "uuid", "uuid"),
    ("<>", "text", "text"),
    ("~", "text", "text"),
    ("~*", "text", "text"),
    ("||", "text", "text"),
    ("*", "bigint", "numeric"),
    ("-", "bigint", "bigint"),
    ("<=", "integer", "integer"),
    (">", "integer", "integer"),
    ("-", "integer", "integer"),
    ("->>", "jsonb", "text"),
    ("#>>", "json", "text[]"),
]


def _plant(conn: Connection, schema: str) -> None:
    trap = "language plpgsql as $$ begin raise exception 'hijacked'; end $$"
    statements = [f"create function {schema}.{function} returns text {trap}" for function in _FUNCTIONS]
    for number, (operator, left, right) in enumerate(_OPERATORS):
        trap_function, sides = f"{schema}.trap{number}", f"leftarg = {left}, rightarg = {right}"
        statements += [
            f"create function {trap_function}({left}, {right}) returns boolean {trap}",
            f"create operator {schema}.{operator} ({sides}, function = {trap_function})",
        ]
    statements += [
        f"create table {schema}.{table} (id uuid, company_id uuid)" for table in (*_TABLES, "company_logins")
    ]
    for statement in statements:
        conn.execute(statement.encode())


@pytest.mark.parametrize("schema", ["public", "pg_temp"])
def test_planted_objects_are_not_found_by_functions_with_their_owners_rights(
    db: Database, shops: list[Shop], schema: str
) -> None:
    """The caller's own functions, operators and tables, in front of the path and in the temporary schema."""
    db.execute("grant create on schema public to public")
    code = db.code(shops[0].company, 9)
    for group in ("farebox_app", "farebox_worker", "farebox_admin"):
        conn = _login(db, group)
        if schema == "pg_temp":
            _plant(conn, "pg_temp")
        elif group == "farebox_app":
            _plant(conn, "public")
        conn.execute("select pg_catalog.set_config('search_path', 'pg_temp, public, pg_catalog', false)")
        if group == "farebox_app":
            batch = shops[0].payments(2, payment_code=code) + shops[0].payments(2, amount="x")
            batch += [{"monime_otp": "\0"}, batch[0] | {"amount": 1}]
            assert said(create(conn, *batch))[:3] == ["created", "created", "amount_invalid"]
            create_one(conn, batch[0])
        for function in _no_arguments(db, group):
            conn.execute(f"select pg_catalog.count(*) from farebox.{function}".encode())


@pytest.mark.parametrize("schema", ["public", "pg_temp"])
def test_planted_objects_are_not_found_when_a_company_reads(
    db: Database, shops: list[Shop], schema: str
) -> None:
    company = _login(db, "farebox_company", bound_to=shops[0].company)
    if schema == "pg_temp":
        _plant(company, "pg_temp")
    else:
        _plant(db.connect(autocommit=True), "public")
    company.execute("select pg_catalog.set_config('search_path', 'pg_temp, public, pg_catalog', false)")
    assert company.execute("select company_id from farebox.tickets limit 1").fetchone() == (shops[0].company,)


def _no_arguments(db: Database, group: str) -> list[str]:
    """Calls of the functions of a group that do with nothing, an empty batch or a limit."""
    values = {"json": "'[]'", "integer": "10"}
    rows: list[tuple[str, list[str]]] = db.execute(
        "select p.proname::text, array(select format_type(t.type, null) from unnest(p.proargtypes)"
        " with ordinality as t(type, n) where t.n <= p.pronargs - p.pronargdefaults)"
        " from pg_proc as p where p.pronamespace = 'farebox'::regnamespace and p.prokind = 'f'"
        " and p.proname !~ '^_' and has_function_privilege(%s, p.oid, 'execute')",
        [group],
    )
    return [
        f"{name}({', '.join(values[kind] for kind in kinds)})"
        for name, kinds in rows
        if values.keys() >= set(kinds)
    ]


# -- settings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "setting",
    [
        "standard_conforming_strings = off",
        "plpgsql.extra_errors = 'all'",
        "transform_null_equals = on",
        "array_nulls = off",
        "datestyle = 'German, DMY'",
        "intervalstyle = 'sql_standard'",
        "timezone = 'Asia/Kathmandu'",
        "bytea_output = 'escape'",
        "extra_float_digits = -15",
        "quote_all_identifiers = on",
        "row_security = off",
        "enable_indexscan = off",
        "enable_nestloop = off",
        "from_collapse_limit = 1",
        "join_collapse_limit = 1",
        "work_mem = '64kB'",
        "client_min_messages = debug1",
        "search_path = ''",
    ],
)
def test_no_setting_of_the_caller_changes_what_a_call_means(
    db: Database, shops: list[Shop], setting: LiteralString
) -> None:
    conn = _login(db, "farebox_app", "farebox_admin")
    conn.execute(f"set {setting}")
    [good, spaced, bad_phone, bad_amount, bad_text] = shops[0].payments(5)
    number = str(spaced["passenger_phone"])
    spaced |= {"passenger_phone": f" ({number[:4]}) {number[4:7]}-{number[7:]} ", "amount": "5.0e3"}
    rows = create(
        conn,
        good,
        spaced,
        bad_phone | {"passenger_phone": "x23276123456"},
        bad_amount | {"amount": "5x3"},
        bad_text | {"monime_otp": "12\0345"},
        {"x": "\ud800\\u0000"},
        good | {"amount": "x"},
        good,
    )
    assert said(rows) == [
        *("created", "created", "phone_invalid", "amount_invalid", "otp_invalid"),
        *("transaction_id_invalid", "conflict", "duplicate"),
    ]
    terms = {"company_id": str(shops[0].company), "code": "c\\d", "total_tickets": "1e1"}
    element = json.dumps([terms | {"expires_at": "2031-02-03T04:05:06.7+01:00"}])
    query = "select outcome from farebox.issue_payment_codes(%s::json)"
    assert [scalar(conn, query, [element]) for _ in range(2)] == ["created", "unchanged"]
    stored = db.execute(
        "select total_tickets, extract(epoch from expires_at)::text"
        " from farebox.payment_codes where code = %s",
        ["c\\d"],
    )
    assert stored == [(10, "1927854306.700000")]
