"""Any text through every argument of every function: no SQLSTATE that is not announced."""

import itertools
import json
import random
import secrets
from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.core.support import Shop, create, violations
from tests.support.database import Database

_TEXTS = [
    *(
        "",
        " ",
        "'",
        '"',
        "''",
        "\\",
        "\\'",
        "$$",
        "%",
        "%s %n %1$s %I",
        "{}",
        "[]",
        "null",
        "NULL",
        "--",
        "/*",
    ),
    *(
        "'; drop table farebox.tickets; --",
        "a\nb\r\tc",
        "\x01\x1f\x7f",
        "\u00a0\u2003\ufeff",
        "\u202e\u0301",
        "é",
    ),
    *("😀" * 100, "ﷺ" * 500, "\U0010ffff", "İıſK", "NaN", "Infinity", "-0", "1e400", "0x10", "1_000"),
    *("9" * 400, "x" * 65, "+" + "1" * 16, "2026-13-45T99:99:99Z", "infinity", "epoch", "now", "x" * 2**20),
    *("(" * 5000, "[" * 2000, "^(a+)+$", "a" * 5000 + "!", "\\x00", "\\u0000", "farebox_owner", "postgres"),
]
# JSON that is no batch of requests, or one of the oddest; a bomb of nesting is in test_outcomes.
_BATCHES = [
    *("null", "{}", "[]", "1", '"x"', "[null]", "[[]]", "[{}]", '[{"": 1}]', "[1e400, -1e-400, 1e99999]"),
    *(r'["\u0000"]', r'[{"\u0000": "\u0000"}]', r'[{"name": "\ud800"}]', '[{"id": {"id": {"id": []}}}]'),
    *("[" + "[]," * 1000 + "[]]", json.dumps([{str(n): n for n in range(5000)}]), "[true, false]"),
    "[" + "{}," * 10_000 + "{}]",
    '[{"code": ' + "1" * 100_000 + "}]",
]
_KEYS = """
    id company_id route_id passenger_phone monime_transaction_id monime_otp amount commission_rate
    payment_code name monime_account_id status origin destination fare code total_tickets expires_at
"""
_VALUES: dict[str, list[Any]] = {
    "text": [None, *_TEXTS],
    "name": [None, *(text[:63] for text in _TEXTS), "x" * 200],
    "uuid": [None, UUID(int=0), UUID(int=2**128 - 1), UUID("01a203f5-5714-7064-882a-25e533020001")],
    "integer": [None, 0, 1, -1, 10, 1000, 1001, 10_001, 2**31 - 1, -(2**31)],
    "bigint": [None, 0, 1, -1, 2**63 - 1, -(2**63)],
    "double precision": [None, 0.0, 0.5, 1.0, 1e308, float("nan"), float("-inf")],
    "boolean": [None, True, False],
    "timestamp with time zone": [
        None,
        "infinity",
        "-infinity",
        "epoch",
        "294276-12-31 23:59+00",
        "4713-01-01 BC",
    ],
    "text[]": [None, [], [None], ["x", None, *_TEXTS[:20]], ["x"] * 20_000],
    "bigint[]": [None, [], [None], [1, -1, 2**63 - 1], list(range(20_000))],
    "uuid[]": [None, [], [None], [UUID(int=0)] * 20_000],
}
# No such login to bind; no such company.
_ANNOUNCED = {"bind_company_login": {"42704", "23503"}}


def _batch(chance: random.Random) -> str:
    """A batch whose elements have known keys with any text or odd value in them."""
    odd: list[Any] = [None, 0, -1, 1.5, True, [], {}, [1], "\0", "\ud800", "a\0b", str(UUID(int=5)), "1", 10]
    elements: list[dict[str, Any]] = [
        {key: chance.choice([*_TEXTS, *odd]) for key in _KEYS.split() if chance.random() < 0.7}
        for _ in range(chance.randint(1, 20))
    ]
    text = json.dumps(elements, ensure_ascii=False)
    return text.encode(errors="backslashreplace").decode()  # half a surrogate pair has no other form


def _arguments(chance: random.Random, types: list[str]) -> list[tuple[Any, ...]]:
    """Each value of each argument at least once, the other arguments at random."""
    columns: list[list[Any]] = []
    for kind in types:
        values = _VALUES[kind] if kind != "json" else [None, *_BATCHES, *(_batch(chance) for _ in range(15))]
        columns.append(chance.sample(values, len(values)))
    longest = max(map(len, columns), default=1)
    for column in columns:
        column += chance.choices(column, k=longest - len(column))
    return list(zip(*columns, strict=True)) if columns else [()]


def _unannounced(name: str, error: psycopg.Error) -> bool:
    """Whether the error is none that the function announces, or one that tells a person nothing."""
    state = error.sqlstate or ""
    if state.startswith("TK"):
        return not (error.diag.message_primary and error.diag.message_hint)
    return state not in _ANNOUNCED.get(name, set())


@pytest.mark.parametrize("role", ["farebox_app", "farebox_worker", "farebox_admin"])
def test_no_argument_of_any_function_raises_what_is_not_announced(db: Database, role: str) -> None:
    """Each function takes each odd value of its argument types, and each answers or raises class TK."""
    seed = secrets.randbits(32)
    chance = random.Random(seed)
    shop = Shop(db)
    with db.connect(autocommit=True) as conn:
        create(conn, *shop.payments(3), *shop.payments(3, amount=0))
        create(conn, *shop.payments(1, payment_code=db.code(shop.company, 3)))
    functions: list[tuple[str, str, list[str]]] = db.execute(
        "select p.proname::text, p.prokind::text,"
        " array(select format_type(t, null) from unnest(p.proargtypes) as t)"
        " from pg_proc as p where p.pronamespace = 'farebox'::regnamespace"
        " and p.prorettype <> 'trigger'::regtype and has_function_privilege(%s, p.oid, 'execute') order by 1",
        [role],
    )
    assert len(functions) > 8
    unexpected: list[str] = []
    conn = db.connect(dsn=db.login(role), autocommit=True)
    conn.execute("set statement_timeout = '60 s'")
    for name, kind, types in functions:
        marks = ", ".join(f"%s::{kind_of_argument}" for kind_of_argument in types)
        query = f"{'call' if kind == 'p' else 'select * from'} farebox.{name}({marks})".encode()
        for arguments in _arguments(chance, types):
            try:
                conn.execute(query, arguments)
            except psycopg.Error as error:
                if _unannounced(name, error):
                    shown = ", ".join(repr(argument)[:60] for argument in arguments)
                    unexpected.append(f"{name}({shown}): {error.sqlstate} {str(error)[:200]}")
    assert not unexpected, f"seed {seed}\n" + "\n".join(itertools.islice(unexpected, 20))
    assert not violations(db)
