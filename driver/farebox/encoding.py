"""From what a caller passes to the JSON that is sent: validation, and one dump in Rust.

Strict (the default): a mapping is validated by its model, a bad field raises before anything is sent.
Not strict: the value goes out as it is, whatever it is, and the database judges it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Annotated, Any, Final, NotRequired, cast, get_args
from uuid import UUID

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, PydanticSerializationError, from_json, to_json, to_jsonable_python
from typing_extensions import TypedDict

from farebox.errors import FieldError, InvalidRequestError, UsageError
from farebox.models import ID_AS_TEXT, Request, either

Element = Request | Mapping[str, Any] | bytes
"""A request, a mapping that becomes one, or its JSON, ready made."""

_JSON_SPACE: Final = re.compile(r"[\s,]*")
_JSON_STRING: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_NO_MARKS: Final = bytes(set(range(256)) - set(b'[]{},"'))
_NO_JSON: Final = (PydanticSerializationError, ValueError, RecursionError)
_PROBLEMS: Final = {
    ("string_pattern_mismatch", "company_id"): "must be a UUID",
    ("string_pattern_mismatch", "route_id"): "must be a UUID",
    ("string_pattern_mismatch", "passenger_phone"): "must be E.164: + and 7 to 15 digits, no leading 0",
    ("string_pattern_mismatch", "monime_otp"): "must be 4 to 12 of A-Z a-z 0-9",
    ("string_pattern_mismatch", "monime_transaction_id"): "must be 1 to 64 characters",
}


def encode_one(model: type[Request], value: Element, ordinal: int = 1, *, strict: bool) -> bytes:
    """The JSON of one element, which is number `ordinal` of its list. Raises `InvalidRequestError`."""
    if strict:
        check_one(model, value, ordinal)
    return dump_one(model, value, ordinal)


def encode_many(model: type[Request], values: Sequence[Element], *, strict: bool) -> bytes:
    """The JSON array of the elements. Raises `InvalidRequestError`."""
    if strict:
        check_many(model, values)
    return dump_many(model, values)


def check_one(model: type[Request], value: Element, ordinal: int = 1) -> None:
    """Raises `InvalidRequestError` for a malformed element, which is number `ordinal` of its list."""
    if isinstance(value, model):
        return
    try:
        if isinstance(value, bytes):
            model.model_validate_json(value)
        else:
            _checker(model)(value)
        return
    except ValidationError as error:
        problems = _details(error)
    raise InvalidRequestError(_field_errors(({**p, "loc": (0, *p["loc"])} for p in problems), ordinal))


def check_many(model: type[Request], values: Sequence[Element], first: int = 1) -> None:
    """Raises `InvalidRequestError` for malformed elements; the first one is number `first`."""
    if not _plain(values):
        for ordinal, value in enumerate(values, first):
            check_one(model, value, ordinal)
        return
    try:
        _list_checker(model)(values)
        return
    except ValidationError as error:
        problems = _details(error)
    raise InvalidRequestError(_field_errors(problems, first))


def dump_one(model: type[Request], value: Element, ordinal: int = 1) -> bytes:
    """The JSON of one element as it is. Raises `InvalidRequestError` for what has no JSON form."""
    if isinstance(value, bytes):
        if _is_one(value):
            return value
        raise InvalidRequestError([FieldError(ordinal, "(element)", "is not one JSON value")])
    if isinstance(value, Mapping) and not isinstance(value, dict):
        value = dict(value)
    try:
        if isinstance(value, Request):
            # Without warnings: they quote what a request that was not validated holds.
            return value.__pydantic_serializer__.to_json(value, exclude_unset=True, warnings=False)
        # NaN and Infinity have no JSON; as strings the database rejects them row by row.
        return to_json(value, inf_nan_mode="strings")
    except _NO_JSON:
        pass
    try:
        # Something the database ignores has no JSON form: what matters has.
        request = model.model_validate(value)
        return request.__pydantic_serializer__.to_json(request, exclude_unset=True, warnings=False)
    except _NO_JSON:
        pass
    try:
        return json.dumps(_plain_values(value)).encode()
    except (TypeError, *_NO_JSON):
        problem = FieldError(ordinal, "(element)", "has no JSON form")
    raise InvalidRequestError([problem])


def dump_many(model: type[Request], values: Sequence[Element], first: int = 1) -> bytes:
    """The JSON array of the elements as they are.

    Raises `InvalidRequestError` for what has no JSON form.
    """
    if _plain(values):
        try:
            return to_json(values, inf_nan_mode="strings")
        except _NO_JSON:
            pass  # One of them has none: find out which.
    return join(dump_one(model, value, ordinal) for ordinal, value in enumerate(values, first))


def join(elements: Iterable[bytes]) -> bytes:
    """The JSON array of ready-made elements."""
    return b"[" + b",".join(elements) + b"]"


def split(array: bytes) -> list[bytes] | None:
    """The elements of a JSON array as they stand in it; None where Python cannot read what PostgreSQL can."""
    text = array.decode()
    decoder = json.JSONDecoder()
    elements: list[bytes] = []
    position = _JSON_SPACE.match(text, 1).end()  # type: ignore[union-attr]  # it matches nothing, too
    try:
        while text[position] != "]":
            end = decoder.raw_decode(text, position)[1]
            elements.append(text[position:end].encode())
            position = _JSON_SPACE.match(text, end).end()  # type: ignore[union-attr]
    except (ValueError, RecursionError, IndexError):
        return None
    return elements


def _plain_values(value: Any) -> Any:
    """What JSON has no form for, in one that the database can judge.

    A lone surrogate has no UTF-8, but it has an escape, which `json` writes; bytes and objects have a text.
    """
    if isinstance(value, Mapping):
        return {str(key): _plain_values(item) for key, item in cast("Any", value).items()}
    if isinstance(value, list | tuple):
        return list(map(_plain_values, cast("Any", value)))
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    if value is None or isinstance(value, str | int):
        return value
    return to_jsonable_python(value, serialize_unknown=True)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


_READER: Final = json.JSONDecoder(parse_int=str, parse_constant=_refuse)


def _is_one(value: bytes) -> bool:
    """Whether ready-made JSON is one value, so that in an array it is one element.

    Anything else could swallow its neighbours or shift their answers: whoever wrote it may mean to.
    """
    try:
        from_json(value, allow_inf_nan=False)
        return True
    except ValueError:
        pass  # Or it is deep, or a lone surrogate: Python reads more than Rust.
    try:
        _READER.decode(value.decode())
    except RecursionError:
        # PostgreSQL reads deeper than Python.
        return _is_closed(value)
    except ValueError:
        return False
    return True


def _is_closed(value: bytes) -> bool:
    """Whether every bracket and string that begins in the value ends there, with no comma outside."""
    marks = _JSON_STRING.sub(b"", value).translate(None, _NO_MARKS)
    depth = 0
    for mark in marks:
        if mark in b"[{":
            depth += 1
        elif mark in b"]}":
            depth -= 1
        if depth < 0 or mark == ord('"') or (depth == 0 and mark == ord(",")):
            return False
    return depth == 0 and b"\0" not in value


def to_parameter(value: object) -> bytes | None:
    """An argument in PostgreSQL's text format. Raises `UsageError` for what has no meaning there."""
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise UsageError("a timestamp needs a time zone", hint="pass an aware datetime")
        return value.isoformat().encode()
    if isinstance(value, bool):
        return b"t" if value else b"f"
    if isinstance(value, UUID | int):
        return str(value).encode()
    if isinstance(value, str):
        if "\0" in value:
            raise UsageError("a text argument must not contain a NUL character")
        try:
            return value.encode()
        except UnicodeEncodeError:
            pass  # It quotes the text, so it must not be the context of ours.
        raise UsageError("a text argument must be valid Unicode")
    raise UsageError(f"an argument of type {type(value).__name__} is not supported")


def _plain(values: Sequence[Element]) -> bool:
    """Whether Rust may go through them in one call: neither models nor ready-made JSON among them."""
    return not any(issubclass(kind, Request | bytes) for kind in set(map(type, values)))


@cache
def _fields(model: type[Request]) -> Any:
    """The model's fields as a mapping: checked like the model, without making models nobody looks at."""
    fields: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        annotation = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
        if UUID in get_args(field.annotation):
            annotation = either(ID_AS_TEXT, annotation)
        fields[name] = annotation if field.is_required() else NotRequired[annotation]
    make: Any = TypedDict
    return make(model.__name__, fields)


@cache
def _checker(model: type[Request]) -> Callable[[object], object]:
    adapter: TypeAdapter[Any] = TypeAdapter(_fields(model))
    return adapter.validator.validate_python


@cache
def _list_checker(model: type[Request]) -> Callable[[object], object]:
    many: Any = list
    adapter: TypeAdapter[Any] = TypeAdapter(many[_fields(model)])
    return adapter.validator.validate_python


def _details(error: ValidationError) -> list[ErrorDetails]:
    # Neither the input nor the context of an error: both can quote a phone number or an OTP.
    return error.errors(include_url=False, include_context=False, include_input=False)


def _field_errors(problems: Iterable[ErrorDetails], first: int) -> Iterator[FieldError]:
    told: set[tuple[int | str, int | str]] = set()
    for problem in problems:
        index, field, *_ = (*problem["loc"], "(element)", "(element)")
        if (index, field) not in told:  # where several spellings are possible, each has its complaint
            told.add((index, field))
            text = _PROBLEMS.get((problem["type"], str(field)), problem["msg"])
            yield FieldError(first + index if isinstance(index, int) else first, str(field), text)
