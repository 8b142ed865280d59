"""JSON as text: checked, split into elements, never rewritten: the database sees what the sender sent."""

from __future__ import annotations

import json
import re
from typing import NoReturn

MAX_DEPTH = 100
"""Deeper nesting is no payment, and could exhaust the stack of a parser on either side."""

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_SPACE = re.compile(r"[ \t\r\n]*")
_SEPARATOR = re.compile(r"[ \t\r\n]*(,|])[ \t\r\n]*")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# Numbers stay text: nothing is gained by parsing them, and Python refuses some that PostgreSQL takes.
_DECODER = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_refuse_constant)


def check_json(text: str) -> None:
    """Raise ValueError unless it is one JSON value that PostgreSQL takes: no NaN, not too deep."""
    _check_depth(text)
    _DECODER.decode(text)


def split_elements(text: str) -> list[str]:
    """The JSON text of each element of an array, or of each value where they follow one another (JSON lines).

    Raises ValueError for what is no JSON.
    """
    _check_depth(text)
    start = _after_space(text, 0)
    return _split_array(text, start + 1) if text[start : start + 1] == "[" else _split_documents(text, start)


def _split_documents(text: str, start: int) -> list[str]:
    elements: list[str] = []
    while start < len(text):
        _, end = _DECODER.raw_decode(text, start)
        elements.append(text[start:end])
        start = _after_space(text, end)
    return elements


def _split_array(text: str, start: int) -> list[str]:
    elements: list[str] = []
    start = _after_space(text, start)
    ended = text[start : start + 1] == "]"
    end = start + 1
    while not ended:
        _, end = _DECODER.raw_decode(text, start)
        elements.append(text[start:end])
        separator = _SEPARATOR.match(text, end)
        if separator is None:
            raise json.JSONDecodeError("Expecting ',' or ']'", text, end)
        ended = separator[1] == "]"
        start = end = separator.end()
    if _after_space(text, end) < len(text):
        raise json.JSONDecodeError("Extra data after the array", text, end)
    return elements


def _after_space(text: str, start: int) -> int:
    match = _SPACE.match(text, start)
    return match.end() if match else start


def _check_depth(text: str) -> None:
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    depth = 0
    for bracket in re.findall(r"[][{}]", _STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        if depth > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH}")
