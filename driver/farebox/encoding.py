"""From what a caller passes to the JSON that is sent: validation, and one dump in Rust.

Strict (the default): a mapping is validated by its model, a bad field raises before anything is sent.
Not strict: the value goes out as it is, whatever it is, and the database judges it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Annotated, Any, Final, NotRequired
from uuid import UUID

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, PydanticSerializationError, to_json, to_jsonable_python
from typing_extensions import TypedDict

from farebox.errors import FieldError, InvalidRequestError, UsageError
from farebox.models import Request

Element = Request | Mapping[str, Any] | bytes
"""A request, a mapping that becomes one, or its JSON, ready made."""

_NO_JSON: Final = (PydanticSerializationError, ValueError, RecursionError)
_PROBLEMS: Final = {
    ("string_pattern_mismatch", "passenger_phone"): "must be E.164: + and 7 to 15 digits, no leading 0",
    ("string_pattern_mismatch", "monime_otp"): "must be 4 to 12 of A-Z a-z 0-9",
    ("string_pattern_mismatch", "monime_transaction_id"): "must be 1 to 64 characters",
}


def encode_one(model: type[Request], value: Element, *, strict: bool, ordinal: int = 1) -> bytes:
    """The JSON of one element. Raises `InvalidRequestError`."""
    if isinstance(value, model):
        return _dump_request(value, ordinal)
    if strict:
        request = _validated(model, value, ordinal)
        if not isinstance(value, bytes):
            return _dump_valid(value, request, ordinal)
    return value if isinstance(value, bytes) else _dump_anything(value, ordinal)


def encode_many(model: type[Request], values: Sequence[Element], *, strict: bool, first: int = 1) -> bytes:
    """The JSON array of the elements, the first one being number `first`. Raises `InvalidRequestError`."""
    if not any(isinstance(value, Request | bytes) for value in values):
        if strict:
            _check(model, values, first)
        try:
            return to_json(values, inf_nan_mode="strings")
        except _NO_JSON:
            pass  # One of them has none: find out which, or what of it matters.
    return join(
        encode_one(model, value, strict=strict, ordinal=ordinal)
        for ordinal, value in enumerate(values, first)
    )


def join(elements: Iterable[bytes]) -> bytes:
    """The JSON array of ready-made elements."""
    return b"[" + b",".join(elements) + b"]"


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
            raise UsageError("a text argument must be valid Unicode") from None
    raise UsageError(f"an argument of type {type(value).__name__} is not supported")


@cache
def _checker(model: type[Request]) -> TypeAdapter[Any]:
    """Checks a list of mappings by the model's fields, without making models that nobody looks at."""
    fields: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        annotation = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
        fields[name] = annotation if field.is_required() else NotRequired[annotation]
    make: Any = TypedDict
    many: Any = list
    return TypeAdapter(many[make(model.__name__, fields)])


def _check(model: type[Request], values: Sequence[Element], first: int) -> None:
    try:
        _checker(model).validate_python(values)
        return
    except ValidationError as error:
        problems = _details(error)
    raise InvalidRequestError(_field_errors(problems, first))


def _validated(model: type[Request], value: Element, ordinal: int) -> Request:
    try:
        if isinstance(value, bytes):
            return model.model_validate_json(value)
        return model.model_validate(value)
    except ValidationError as error:
        problems = _details(error)
    raise InvalidRequestError(_field_errors(({**p, "loc": (0, *p["loc"])} for p in problems), ordinal))


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


def _dump_request(request: Request, ordinal: int) -> bytes:
    try:
        return request.__pydantic_serializer__.to_json(request, exclude_unset=True)
    except _NO_JSON:
        return _dump_anything(request.model_dump(exclude_unset=True), ordinal)


def _dump_valid(value: object, request: Request, ordinal: int) -> bytes:
    """The value as it came; where something in it that does not matter has no JSON form, what matters."""
    try:
        return to_json(value, inf_nan_mode="strings")
    except _NO_JSON:
        return _dump_request(request, ordinal)


def _dump_anything(value: object, ordinal: int) -> bytes:
    try:
        # NaN and Infinity have no JSON; as strings the database rejects them row by row.
        return to_json(value, inf_nan_mode="strings")
    except _NO_JSON:
        pass
    try:
        # A lone surrogate has no UTF-8, but it has an escape, and the database judges that one too.
        return json.dumps(to_jsonable_python(value, inf_nan_mode="strings"), allow_nan=False).encode()
    except (TypeError, *_NO_JSON):
        problem = FieldError(ordinal, "(element)", "has no JSON form")
    raise InvalidRequestError([problem])
