"""Requests for the state machine: a small pool of payments, so that they meet, and all the dirt there is.

A request is a payment of the pool, said right, and then a few twists: another value for a field, a field
left out or said twice, or something that is no request at all.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from hypothesis import strategies as st

Fields = dict[str, str]  # the JSON text of each field
Twist = Callable[["Payment", Fields], str | None]  # changes the fields, or returns another element altogether

# The first three are of different shards, where there are three.
COMPANIES = [UUID(int=0xC0 << 120 | n << 112 | 0x4 << 76 | 0x8 << 60) for n in (0, 3, 2, 1)]
ROUTES = [UUID(int=0xA0 << 120 | n << 112 | 0x4 << 76 | 0x8 << 60) for n in range(7)]
UNKNOWN = UUID("0b0e1ab6-3a0f-4b3e-8d59-0d3b1c5e1fff")
CODES = ["*715*1#", "*715*2#", "*715*3#", "*715*4#", "*715*5#", "Ωδός 6"]
_FIRST = "\0"  # marks what is said before the field itself
WHITE_SPACE = ("", " ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u2003", "\u3000", "\x1f", "\x85")


@dataclass(frozen=True)
class Payment:
    """A payment of the pool. Company 0 sells most; 2 is suspended at first; 3 does not exist."""

    number: int

    @property
    def company(self) -> int:
        return (0, 0, 0, 1, 0, 0, 2, 0, 1, 0)[self.number % 10]

    @property
    def amount(self) -> int:
        """With a rate of 0.05 each commission ends in a half or close to it."""
        return 10 + 20 * self.number + self.number % 3

    @property
    def phone(self) -> str:
        return f"+23276{self.number:06d}"

    @property
    def fields(self) -> Fields:
        routes = {0: ROUTES[self.number % 2], 1: ROUTES[3], 2: ROUTES[4]}
        code = {1: CODES[0], 2: CODES[1], 3: CODES[2], 4: CODES[3], 5: CODES[4], 7: CODES[0], 8: CODES[2]}
        fields = {
            "company_id": _text(COMPANIES[self.company]),
            "route_id": _text(routes[self.company]),
            "passenger_phone": _text(self.phone),
            "monime_transaction_id": _text(f"pay-{self.number}"),
            "monime_otp": _text(f"{self.number:04d}"),
            "amount": str(self.amount),
        }
        if self.number % 10 in code:
            fields["payment_code"] = _text(code[self.number % 10])
        return fields


def _text(value: object) -> str:
    return json.dumps(str(value))


def _set(field: str, raw: str) -> Twist:
    def twist(_payment: Payment, fields: Fields) -> None:
        fields[field] = raw

    return twist


def _drop(field: str) -> Twist:
    def twist(_payment: Payment, fields: Fields) -> None:
        fields.pop(field, None)

    return twist


def _replace(element: str) -> Twist:
    return lambda _payment, _fields: element


def _amount(form: str) -> Twist:
    def twist(payment: Payment, fields: Fields) -> None:
        fields["amount"] = form.format(payment.amount, payment.amount * 100, payment.amount / 1000)

    return twist


def _phone(form: str) -> Twist:
    def twist(payment: Payment, fields: Fields) -> None:
        number = payment.phone
        fields["passenger_phone"] = _text(form.format(number, number[:4], number[4:7], number[7:]))

    return twist


def _wrap(field: str, before: str, after: str) -> Twist:
    def twist(_payment: Payment, fields: Fields) -> None:
        value = json.loads(fields.get(field, '""'))
        if isinstance(value, str):
            fields[field] = json.dumps(before + value + after)

    return twist


def _say_twice(field: str, first: str) -> Twist:
    """The field said before, with another value; the later one counts."""

    def twist(_payment: Payment, fields: Fields) -> None:
        fields[field + _FIRST] = first

    return twist


def _raws(text: str) -> list[str]:
    """JSON texts without white space in them, as many as there are words."""
    return text.split()


def _any(field: str, text: str, *more: str) -> list[Twist]:
    return [_set(field, raw) for raw in (*_raws(text), *more)]


_BIG = json.dumps("x" * 2**20)
# What no field takes as it is; much of it no text can hold.
_JUNK = [
    *_raws(r"""null true false 0 -1 1e400 [] {} [""] {"a":1} "" "\u0000" "a\u0000b" "\ud800" "\udc00x" """),
    *_raws(
        r""""\ude00\ud83d" "NaN" "Infinity" "null" "\\u0000" "%s%n%I" "\ud83d\ude00" "\ufeff" "\\" "\"" """
    ),
    '"  "',
    '"\'; drop table farebox.tickets; --"',
]
_FIELDS = [*Payment(1).fields, "commission_rate"]

# One group for each kind of dirt: a group is drawn first, so that the long ones do not drown the short ones.
_TWISTS: list[list[Twist]] = [
    # any junk in any field, white space around it
    [_set(field, raw) for field in _FIELDS for raw in _JUNK],
    [
        _wrap(field, before, after)
        for field in _FIELDS
        for before, after in zip(WHITE_SPACE, reversed(WHITE_SPACE), strict=True)
    ],
    # left out, said twice, or too much of it
    [
        *[_drop(field) for field in _FIELDS],
        *[_say_twice(field, raw) for field in _FIELDS for raw in ("null", r'"\u0000"', '"0"')],
        *[_set(field, _BIG) for field in _FIELDS],
    ],
    # companies, routes
    [
        *[_set("company_id", _text(company)) for company in (*COMPANIES, UNKNOWN, UNKNOWN)],
        *_any("company_id", _text(str(COMPANIES[0]).upper()), _text(str(COMPANIES[0])[:-1])),
    ],
    [
        *[_set("route_id", _text(route)) for route in (*ROUTES, UNKNOWN)],
        *_any("route_id", _text(str(ROUTES[0]).upper()), _text(f"{ROUTES[0]}0")),
    ],
    # transaction ids: of other payments, and of every length that matters
    [
        *[_set("monime_transaction_id", _text(f"pay-{number}")) for number in range(12)],
        *[
            _set("monime_transaction_id", _text(letter * n))
            for letter in ("x", "é", "😀")
            for n in (1, 64, 65)
        ],
        _set("monime_transaction_id", _text(" " * 60 + "y" * 64 + "\n" * 60)),
        _set("monime_transaction_id", json.dumps("ž" * 64, ensure_ascii=False)),
        *_any("monime_transaction_id", '12345 "PAY-1" "pay-01" "ｐay-1"', '"pay 1"'),
    ],
    # phones: the same number in other writings, and what is none
    [
        *[_phone(form) for form in ("{1} {2} {3}", "({1}) {2}-{3}", "{1}.{2}.{3}", " -{0}- ", "{1}({2}){3}")],
        *[_phone(form) for form in ("+ {0}", "{1}{2}***", "00{0}", "+0{2}{3}", "{1}/{2}{3}", "{1}\t{2}{3}")],
        *[_phone(form) for form in ("{1}\u00a0{2}{3}", "{0}\n{0}", "{0}x", "{2}{3}")],
        *[_set("passenger_phone", _text("+" + "1" * n)) for n in (1, 6, 7, 8, 15, 16)],
        *_any("passenger_phone", r'23276000001 "+٢٣٢٧٦٠٠٠٠٠١" "+1"'),
    ],
    # OTPs
    [
        *[_set("monime_otp", _text("a1B2" * n)) for n in (1, 2, 3, 4)],
        *_any("monime_otp", r'"abc" "1234567890123" "ábcd" "12-34" 1234 "１２３４" "1234\n"', '"12 34"'),
        *_any("monime_otp", '"0000" "0001" "ABCD" "abcd"'),
    ],
    # amounts that are the same by value
    [
        *[_amount(form) for form in ('"{0}"', "{0}.0", "{0}.000", "{0}e0", "{1}e-2", '" {0} "', '"+{0}"')],
        *[_amount(form) for form in ("{0}E+0", '"{1}e-2"', '"{0}."', "{2}e3", '"0{0}"', '"{1}.00E-0002"')],
    ],
    # other amounts, and what is none
    [
        *[_amount(form) for form in ('"{0} 000"', '"{0},0"', '"{0}_0"', '"SLE {0}"', '"0x{0}"', "{0}.5")],
        *[_amount(form) for form in ("-{0}", "{0}e9", "{0}e99999", "{0}e-99999", "[{0}]", '"{0}e"')],
        *[_amount(form) for form in (r'"{0}\u0000"', '"{0}{0}{0}{0}{0}{0}{0}{0}"', '"e{0}"')],
        *_any("amount", "1 10 30 50 1000000000000 1000000000001 1e12 0.9 1e-1 9223372036854775808"),
        *_any("amount", '"1e999999999" "١٠" 0 -0 ".5e1" "1.2.3" "--1"', "1" + "0" * 500),
    ],
    # rates
    [
        *_any("commission_rate", '0 1 0.5 0.1234 0.12345 "0.05" "5e-2" 1e-4 0.05000 1e-5 1.0001 -0.0001 -0'),
        *_any("commission_rate", '"abc" ".5" "1." 5 1e400 1e-400 "0,05" "5%"', '" 0.25 "'),
    ],
    # codes, twice: they are what payments fight for
    *2 * [[_set("payment_code", _text(code)) for code in (*CODES, *CODES[:2])]],
    [
        *_any("payment_code", r'"*715*1" "*715*1#x" "Ωδός" 715 "\u0399"', '"ΩΔΌΣ 6"'),
        _drop("payment_code"),
    ],
    # keys: unknown ones, and known ones in other letters
    [
        *[
            _set(key, raw)
            for key in ("note", "amount ", "Amount", "", "id")
            for raw in ("1", r'"\u0000"', "{}")
        ],
        *[_set(key, "1") for key in (r"a\u0000b", r"\ud800", r"amount\u0000")],
        _set("nested", r'{"amount": 0, "b": ["\udfff", {"c": [[[]]]}]}'),
    ],
    # no requests at all
    [_replace(text) for text in (*_JUNK[:11], '"pay-1"', "[[]]", '[{"amount": 1}]', '{"amount": 10}')],
]


def _element(payment: Payment, twists: tuple[Twist, ...]) -> str:
    fields = payment.fields
    for twist in twists:
        if (replaced := twist(payment, fields)) is not None:
            return replaced
    said_before = {name.removesuffix(_FIRST): raw for name, raw in fields.items() if name.endswith(_FIRST)}
    said = {name: raw for name, raw in fields.items() if not name.endswith(_FIRST)}
    pairs = [*((name, raw) for name, raw in said_before.items() if name in said), *said.items()]
    return "{" + ", ".join(f'"{name}": {raw}' for name, raw in pairs) + "}"


def _twist(group: int, number: int) -> Twist:
    return _TWISTS[group][number % len(_TWISTS[group])]


_PAYMENT = st.one_of(st.integers(0, 9), st.integers(0, 60)).map(Payment)
_TWIST = st.builds(_twist, st.integers(0, len(_TWISTS) - 1), st.integers(0, 1000))
_FEW: st.SearchStrategy[tuple[Twist, ...]] = st.one_of(
    st.just(()), st.just(()), st.tuples(_TWIST), st.tuples(_TWIST, _TWIST)
)

ELEMENTS = st.builds(_element, _PAYMENT, _FEW)
BATCHES = st.one_of(st.lists(ELEMENTS, max_size=6), st.lists(ELEMENTS, min_size=15, max_size=50))
