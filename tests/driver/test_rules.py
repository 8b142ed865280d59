"""The driver's rules that need no server: errors, requests, batches, delays, options."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import pickle
import warnings
from collections import UserDict
from collections.abc import Iterator, Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Any, cast, get_args
from unittest import mock
from uuid import UUID, uuid4

import psycopg
import pytest
from pydantic import ValidationError

from farebox import (
    ClosedError,
    ConfigurationError,
    DatabaseError,
    DataError,
    Farebox,
    FareboxError,
    FieldError,
    InvalidRequestError,
    NotMigratedError,
    PermissionDeniedError,
    TicketOutcome,
    TicketRequest,
    TransientError,
    UsageError,
    calls,
)
from farebox._bulk import Chunker, portions
from farebox._dsn import Target
from farebox._line import Line
from farebox._queue import MAX_BATCH_BYTES, Caller, Part, Patience, Share, Unit
from farebox._rows import Rows
from farebox.encoding import encode_many, encode_one
from farebox.errors import map_error, map_sqlstate
from farebox.events import BatchEvent, Event, Observer
from farebox.options import Options, Settings

PAYMENT: dict[str, Any] = {
    "company_id": str(uuid4()),
    "route_id": str(uuid4()),
    "passenger_phone": "+23276123456",
    "monime_transaction_id": "pay-1",
    "monime_otp": "123456",
    "amount": 5000,
}


@pytest.mark.parametrize(
    ("sqlstate", "kind"),
    [
        ("TK001", UsageError),
        ("22P02", DataError),
        ("23505", DataError),
        ("40001", TransientError),
        ("40P01", TransientError),
        ("08006", TransientError),
        ("08P01", TransientError),
        ("57P01", TransientError),
        ("57P02", TransientError),
        ("57P03", TransientError),
        ("53300", TransientError),
        ("55P03", TransientError),
        ("42501", PermissionDeniedError),
        ("3F000", NotMigratedError),
        ("42883", NotMigratedError),
        ("42P01", NotMigratedError),
        ("28P01", ConfigurationError),
        ("3D000", ConfigurationError),
        ("57014", DatabaseError),
        ("XX000", DatabaseError),
        (None, TransientError),
    ],
)
def test_every_sqlstate_has_its_exception(sqlstate: str | None, kind: type[FareboxError]) -> None:
    error = map_sqlstate(sqlstate, "as the server put it", detail="quotes data", hint="a hint")
    assert type(error) is kind
    assert error.sqlstate == sqlstate
    assert (error.detail == "quotes data") == (kind is UsageError)


def test_errors_of_psycopg_are_mapped_without_their_text() -> None:
    with pytest.raises(psycopg.ProgrammingError) as malformed:
        psycopg.connect("password='secret")
    assert isinstance(map_error(malformed.value), ConfigurationError)
    assert "secret" not in str(map_error(malformed.value))
    assert isinstance(map_error(psycopg.OperationalError("connection refused")), TransientError)


@pytest.mark.parametrize(
    "error",
    [
        TransientError("m", sqlstate="40001", hint="h"),
        InvalidRequestError([FieldError(3, "amount", "must be a number")]),
        ClosedError("m"),
    ],
)
def test_errors_can_be_copied_and_sent_to_other_processes(error: FareboxError) -> None:
    for twin in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(twin) is type(error)
        assert (str(twin), vars(twin)) == (str(error), vars(error))


@pytest.mark.parametrize(
    "amount", [5000, "5000", 5000.0, "5000.0", "5e3", " 5000 ", "+5000", Decimal("5e3"), "5000.000"]
)
def test_amounts_go_by_value_as_in_the_database(amount: object) -> None:
    assert TicketRequest.model_validate(PAYMENT | {"amount": amount}).amount == 5000


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("amount", 0),
        ("amount", -1),
        ("amount", 10**12 + 1),
        ("amount", 0.5),
        ("amount", "1e999999999"),
        ("amount", float("nan")),
        ("amount", "x"),
        ("amount", True),
        ("amount", None),
        ("commission_rate", 1.1),
        ("commission_rate", "0.00001"),
        ("commission_rate", "NaN"),
        ("commission_rate", True),
        ("passenger_phone", "+0123456789"),
        ("passenger_phone", "23276123456"),
        ("passenger_phone", "+23276***456"),
        ("passenger_phone", 23276123456),
        ("passenger_phone", "+1234567890123456"),
        ("monime_otp", "123"),
        ("monime_otp", "1234567890123"),
        ("monime_otp", "12 34"),
        ("monime_otp", 123456),
        ("monime_transaction_id", " "),
        ("monime_transaction_id", "x" * 65),
        ("company_id", "x"),
        ("route_id", None),
    ],
)
def test_a_bad_field_is_named(field: str, value: object) -> None:
    bad = PAYMENT | {field: value}
    with pytest.raises(InvalidRequestError) as alone:
        encode_one(TicketRequest, bad, strict=True)
    assert [(e.ordinal, e.field) for e in alone.value.errors] == [(1, field)]
    with pytest.raises(InvalidRequestError) as among_others:
        encode_many(TicketRequest, [PAYMENT, bad], strict=True)
    assert [(e.ordinal, e.field) for e in among_others.value.errors] == [(2, field)]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("passenger_phone", " +232 (76) 123-456 "),
        ("passenger_phone", "+232.76.123.456"),
        ("monime_otp", " 1234 "),
        ("monime_transaction_id", "  pay-1  "),
        ("monime_transaction_id", "\u00e9" * 64),
        ("commission_rate", "0.05"),
        ("commission_rate", 0.05),
        ("commission_rate", "0.050000"),
        ("commission_rate", None),
        ("payment_code", " "),
        ("company_id", UUID(int=5)),
        ("company_id", "{00112233-44556677-8899aabb-ccddeeff}"),
        ("unknown", object()),
    ],
)
def test_what_the_database_takes_passes_as_it_came(field: str, value: object) -> None:
    encode_one(TicketRequest, PAYMENT | {field: value}, strict=True)


@pytest.mark.parametrize(
    "value",
    [
        b"{}",
        b' {"a": [1, "]", "\\"", 1e400, -0.0], "b": {}} ',
        b"null",
        b"9" * 5000,
        b'{"deep": %s}' % (b'["]\\"",' * 3000 + b"1" + b"]" * 3000),
    ],
)
def test_ready_made_json_goes_out_as_it_is(value: bytes) -> None:
    assert encode_one(TicketRequest, value, strict=False) == value


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b" ",
        b"{},{}",
        b"{} {}",
        b'{"a": [1',
        b"2]}",
        b'{"a": "',
        b'"}',
        b'{"a": NaN}',
        b'{"a": 1}\0',
        b'{"a": "\xff"}',
        b"[" * 5000,
        b"]" * 5000,
        b"[" * 5000 + b"]" * 5000 + b"," + b"[" * 5000 + b"]" * 5000,
        b"[" * 5000 + b'"' + b"]" * 5000,
    ],
)
def test_ready_made_json_that_is_not_one_value_is_refused(value: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        encode_one(TicketRequest, value, strict=False)
    with pytest.raises(InvalidRequestError) as among_others:
        encode_many(TicketRequest, [PAYMENT, value], strict=False)
    assert [error.ordinal for error in among_others.value.errors] == [2]


def test_a_mapping_of_any_kind_goes_out_for_the_database_to_judge() -> None:
    """Also what no JSON knows. Seen to fail: whether the payment is kept was up to the kind of mapping."""
    masked = PAYMENT | {"passenger_phone": "+23276***456"}
    assert json.loads(encode_one(TicketRequest, MappingProxyType(masked), strict=False)) == masked
    odd = masked | {"passenger_phone": _Phone(), "received": _Phone()}
    assert json.loads(encode_one(TicketRequest, odd, strict=False))["passenger_phone"] == "+23276000000"
    for value in (b"\xff", {"\ud800": float("nan")}, {"x": UserDict(x="\ud800")}):
        assert encode_one(TicketRequest, masked | {"x": value}, strict=False).startswith(b'{"company_id"')


class _Phone:
    def __str__(self) -> str:
        return "+23276000000"


def test_a_request_that_nobody_validated_goes_out_without_a_warning() -> None:
    """Pydantic's warnings quote the value."""
    request = TicketRequest(**PAYMENT).model_copy(update={"passenger_phone": 23276123456})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert b"23276123456" in encode_one(TicketRequest, request, strict=False)


def test_large_requests_make_smaller_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen to fail: ten thousand of 1 MB would be one message."""
    monkeypatch.setattr("farebox._bulk.MAX_CHUNK_BYTES", 1000)
    sizes = [0, 300, 600, 900, 1200, 0, 300] * 50
    tickets = [{"number": number, "x": "x" * size} for number, size in enumerate(sizes)]
    chunks = list(Chunker(300, strict=False).cut(tickets))
    assert max(len(chunk.payload) for chunk in chunks if chunk.elements > 1) <= 1100
    assert [json.loads(chunk.payload)[0]["number"] + 1 for chunk in chunks] == [c.first for c in chunks]
    assert [ticket for chunk in chunks for ticket in json.loads(chunk.payload)] == tickets
    assert sum(chunk.elements for chunk in chunks) == len(tickets)
    payloads = [json.dumps(ticket).encode() for ticket in tickets]
    parts = list(portions(payloads, 3))
    assert [payload for part in parts for payload in part] == payloads
    assert all(len(part) <= 3 and (sum(map(len, part)) <= 1000 or len(part) == 1) for part in parts)


def test_a_session_speaks_the_encoding_that_requests_are_in() -> None:
    """Seen to fail: with another one in the DSN the names of routes were stored wrong."""
    for dsn in ("host=x", "host=x client_encoding=latin1", "postgresql://x/y?client_encoding=LATIN1"):
        assert "client_encoding=utf8" in Target(dsn).conninfo
    nothing: Any = None
    with pytest.raises(ConfigurationError):
        Farebox(nothing)


def test_a_request_shows_neither_phone_nor_otp_and_cannot_be_changed() -> None:
    request = TicketRequest(**PAYMENT)
    assert "23276123456" not in repr(request)
    assert "123456" not in str(request)
    with pytest.raises(ValidationError):
        request.amount = 1  # type: ignore[misc]


def test_delays_double_and_are_jittered_in_full() -> None:
    patience = Patience(backoff=0.1, backoff_limit=1.0)
    for failures, most in ((1, 0.1), (2, 0.2), (3, 0.4), (4, 0.8), (5, 1.0), (500, 1.0)):
        delays = [patience.delay(failures) for _ in range(500)]
        assert 0 <= min(delays) < most * 0.1
        assert most * 0.9 < max(delays) <= most


async def test_a_batch_has_a_limit_in_bytes_and_skips_who_has_gone() -> None:
    share = Share(calls.CREATE_TICKETS, calls.CREATE_TICKET, 100)
    loop = asyncio.get_running_loop()
    callers = [
        Caller(loop, payload=payload)
        for payload in [b"x" * (MAX_BATCH_BYTES + 1), b"a", b"b", b"x" * MAX_BATCH_BYTES, b"c"]
    ]
    share.waiting.extend(callers)
    callers[1].cancel()
    assert share.take() == ([callers[0]], 2)  # a giant travels alone; who has gone is gone
    assert share.take() == ([callers[2]], 1)
    assert share.take() == ([callers[3]], 1)
    assert share.take() == ([callers[4]], 1)
    assert share.take() == ([], 0)


def _said(*rows: tuple[int, str, str | None]) -> Rows:
    """Answers of `create_tickets`: ordinal, outcome, reason."""
    names = tuple(calls.CREATE_TICKETS.row.model_fields)
    return Rows(names, [(ordinal, None, outcome, reason, *[None] * 4) for ordinal, outcome, reason in rows])


async def test_of_a_list_only_what_a_lost_shard_has_is_asked_again_and_what_is_known_comes_back() -> None:
    caller = Caller(asyncio.get_running_loop(), payload=(b'[{"a": 1}, {"a": 2}, {"a": 3}]',))
    caller.part = Part(3, first=11)
    lost, created = ("rejected", "shard_unavailable"), ("created", None)
    unit = Unit(calls.CREATE_TICKETS, [caller], None)
    unit.deliver(_said((1, *created), (2, *lost), (3, *lost)))
    assert (unit.lost, caller.payload) == ([caller], (b'[{"a": 2},{"a": 3}]',))
    unit = unit.again(unit.lost)
    unit.deliver(_said((1, *lost), (2, *created)))
    assert (unit.lost, caller.payload) == ([caller], (b'[{"a": 2}]',))
    caller.fail(TransientError("no time left"))
    known = [(outcome.ordinal, outcome.reason) for outcome in await caller]
    assert known == [(11, None), (12, "shard_unavailable"), (13, None)]


@pytest.mark.parametrize(
    "row",
    [
        (1, "pay-1", "created", None, UUID(int=1), None, None, True),
        (2, None, "rejected", "phone_invalid", None, None, None, None),
        (3, "pay-3", "conflict", None, None, UUID(int=3), ["amount", "route_id"], None),
    ],
)
def test_outcomes_are_what_pydantic_makes_of_the_row(row: tuple[Any, ...]) -> None:
    names = tuple(TicketOutcome.model_fields)
    plain = TicketOutcome.model_validate(dict(zip(names, row, strict=True)))
    for rows in (Rows(names, [row]), Rows((*names, "since_version_9"), [(*row, "new")])):
        [outcome] = calls.CREATE_TICKETS.load(rows)
        assert outcome == plain
        assert (repr(outcome), hash(outcome)) == (repr(plain), hash(plain))
        assert outcome.model_dump() == plain.model_dump()
        assert outcome.model_dump_json(exclude_unset=True) == plain.model_dump_json(exclude_unset=True)
        assert outcome.model_copy(update={"ordinal": 9}) == plain.model_copy(update={"ordinal": 9})
        assert pickle.loads(pickle.dumps(outcome)) == copy.deepcopy(outcome) == plain
        assert outcome.model_fields_set == plain.model_fields_set
        with pytest.raises(ValidationError):
            outcome.ordinal = 5  # type: ignore[misc]


class _Broken(Mapping[str, Any]):
    """A mapping of the application's own."""

    def __getitem__(self, key: str) -> Any:
        raise RuntimeError("the row is gone")

    def __iter__(self) -> Iterator[str]:
        return iter(PAYMENT)

    def __len__(self) -> int:
        return len(PAYMENT)


async def test_a_ticket_that_cannot_be_read_any_more_when_its_turn_comes_is_its_callers_error() -> None:
    """Seen to fail: the caller waited for ever, and so did those behind it."""
    loop = asyncio.get_running_loop()
    share = Share(calls.CREATE_TICKETS, calls.CREATE_TICKET, 100)
    line = Line([share], places=1)
    callers = [Caller(loop, ticket=ticket) for ticket in (PAYMENT, _Broken(), PAYMENT)]
    for caller in callers:
        caller.way = share
        line.enter(caller)
    assert line.next(any_size=True)
    line.admit()
    with pytest.raises(RuntimeError, match="the row is gone"):
        await callers[1]
    assert list(share.waiting) == [callers[2]]


async def test_answers_that_do_not_fit_their_questions_reach_nobody() -> None:
    share = Share(calls.CREATE_TICKETS, calls.CREATE_TICKET, 100)
    loop = asyncio.get_running_loop()
    callers = [Caller(loop, payload=b"{}") for _ in range(2)]
    for ordinals in ([1], [2, 1], [1, 2, 3], [1, 1]):
        with pytest.raises(DatabaseError, match="one row for each element"):
            Unit.shared(share, callers).deliver(_said(*((ordinal, "rejected", None) for ordinal in ordinals)))
    with pytest.raises(DatabaseError, match="do not fit") as unfit:
        Unit.shared(share, callers).deliver(_said((1, "rejected", None), (2, "+23276123456", None)))
    assert "23276123456" not in str(unfit.value)
    assert not any(caller.done() for caller in callers)


@pytest.mark.parametrize(
    "wrong",
    [
        {"connections": 0},
        {"pipeline": 0},
        {"max_batch": 0},
        {"max_batch": 10_001},
        {"attempts": 0},
        {"timeout": -1.0},
        {"catalog_ttl": float("nan")},
        cast("Options", {"consistency": "own-writes"}),
        cast("Options", {"when_full": "block"}),
        cast("Options", {"connections": None}),
    ],
)
def test_options_out_of_range_are_refused(wrong: Options) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        Settings(**wrong)


def test_a_time_out_that_no_clock_passes_is_refused() -> None:
    """Seen to fail: the event loop never sleeps again."""
    with pytest.raises(UsageError, match="not a number"):
        Patience(timeout=float("nan"))


def test_settings_show_no_password() -> None:
    assert "secret" not in repr(Settings(read_dsn="password=secret", listen_dsn="password=secret"))


def test_options_have_one_list() -> None:
    assert set(Options.__annotations__) == set(Settings.__dataclass_fields__)
    with pytest.raises(UsageError, match="colour"):
        Farebox("host=x", colour="red")  # type: ignore[call-arg]


def test_a_hook_that_raises_is_told_of_and_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def broken(event: Event) -> None:
        raise RuntimeError("broken hook")

    Observer(broken).connection("opened", "somewhere")
    assert "the event hook failed" in caplog.text


def test_log_records_carry_their_fields(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="farebox"):
        outcomes = [mock.Mock(outcome="created"), mock.Mock(outcome="created")]
        Observer(None).batch("somewhere", "create_tickets", 2, 1, 0.001, 0.002, outcomes, None)
    [record] = caplog.records
    fields = vars(record)["farebox"]
    assert (fields["event"], fields["function"], fields["size"]) == ("batch", "create_tickets", 2)
    assert set(fields) == {"event", *BatchEvent.__dataclass_fields__}
    assert fields["outcomes"] == {"created": 2}


def test_every_call_of_the_driver_is_a_function_of_the_schema_with_named_arguments() -> None:
    for name in dir(calls):
        call = getattr(calls, name)
        if isinstance(call, calls.Call) and not call.function.startswith("wal_"):
            assert call.sql.startswith(f"select * from farebox.{call.function}(")
            assert all(f"{parameter} => $" in call.sql for parameter, _ in call.parameters)
    assert get_args(Event)
