"""Reads payments from CSV or JSON lines, one line at a time, whatever the line looks like.

A record is one physical line in both formats. For CSV that gives up line breaks inside quotes, and buys
that one stray quote spoils its own line only: a payment is never swallowed by its neighbour.
JSON elements are handed on as the text they came in: numbers and escapes reach the database untouched.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, cast

from farebox.cli.json_text import check_json

Format = Literal["csv", "jsonl"]

REQUIRED_COLUMNS = (
    "company_id",
    "route_id",
    "passenger_phone",
    "monime_transaction_id",
    "monime_otp",
    "amount",
)
OPTIONAL_COLUMNS = ("commission_rate", "payment_code")
COLUMNS = REQUIRED_COLUMNS + OPTIONAL_COLUMNS

MAX_LINE_BYTES = 4 * 1024 * 1024
"""Longer lines are reported, not read into memory."""

_KEPT_OF_LONG_LINE = 1000

_OF_AN_ARRAY = re.compile(rb"\[\s*\{")
"""How a file begins that is an array of payments: on one line it is JSON, and would pass for one payment."""


class PaymentFileError(Exception):
    """The file as a whole cannot be read: missing, wrong encoding, no usable header."""


@dataclass(frozen=True, slots=True)
class PaymentLine:
    """A well-formed line: `element` is JSON text for the batch, `original` JSON text of what came in."""

    number: int
    element: str
    original: str


@dataclass(frozen=True, slots=True)
class MalformedLine:
    """One line that cannot be turned into JSON at all: `reason` is a stable word, `detail` is for people."""

    number: int
    reason: str
    detail: str
    raw: str


_Parser = Callable[[int, str], PaymentLine | MalformedLine]


class PaymentFile:
    """A stream of payments.

    `path` is a file or `-` for standard input; gzip is recognised by its first bytes. `kind` is guessed from
    the name or from the first character when not given. `columns` maps contract names to the header's names.
    Iterating yields `PaymentLine` and `MalformedLine`; memory stays constant. When the stream breaks off
    (a truncated gzip), iteration ends and `broken` says why.
    """

    def __init__(
        self, path: str, *, kind: Format | None = None, columns: Mapping[str, str] | None = None
    ) -> None:
        self.path = path
        self.broken: str | None = None
        self.ignored_columns: list[str] = []
        self._columns = dict(columns or {})
        self._number = 0
        self._raw = _open(path)
        try:
            self._stream = _decompressed(self._raw)
            self._first = self._read_first_line()
            self.kind: Format = kind or _guess_format(path, self._first)
            if self.kind == "csv":
                csv.field_size_limit(MAX_LINE_BYTES)
                self._delimiter, self._header = self._read_header()
            elif _OF_AN_ARRAY.match(self._first) or (
                self._first.startswith(b"[") and not _is_json(self._first)
            ):
                raise PaymentFileError(
                    "the file is one JSON array; import reads one JSON object a line: convert it with "
                    "`jq -c '.[]' FILE | farebox import -`"
                )
            elif self._columns:
                raise PaymentFileError("a column mapping is for CSV; the keys of JSON lines are fixed")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> PaymentFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; standard input is left alone."""
        if self.path != "-":
            self._raw.close()

    @property
    def size(self) -> int | None:
        """Bytes on disk (compressed, if it is), or None for a pipe."""
        path = Path(self.path)
        return path.stat().st_size if self.path != "-" and path.is_file() else None

    @property
    def position(self) -> int:
        """Bytes of the file on disk read so far."""
        return self._raw.tell() if self._raw.seekable() else 0

    def __iter__(self) -> Iterator[PaymentLine | MalformedLine]:
        parse = self._parse_csv if self.kind == "csv" else _parse_json
        first, self._first = self._first, b""
        if self.kind == "jsonl" and first:
            yield from self._parsed(first, parse)
        while line := self._read_line():
            yield from self._parsed(line, parse)

    def _parsed(self, line: bytes, parse: _Parser) -> Iterator[PaymentLine | MalformedLine]:
        number = self._number
        if not line.strip():
            return
        if len(line) > MAX_LINE_BYTES:
            self._skip_rest_of_line(line)
            raw = line[:_KEPT_OF_LONG_LINE].decode("utf-8", "backslashreplace")
            yield MalformedLine(
                number, "too_long", f"longer than {MAX_LINE_BYTES} bytes; the start is kept", raw
            )
            return
        try:
            text = line.decode("utf-8").strip("\r\n")
        except UnicodeDecodeError as error:
            raw = line.decode("utf-8", "backslashreplace").strip("\r\n")
            yield MalformedLine(number, "not_utf8", f"byte {error.start + 1} is not UTF-8", raw)
            return
        yield parse(number, text)

    def _parse_csv(self, number: int, text: str) -> PaymentLine | MalformedLine:
        try:
            fields = next(csv.reader([text], delimiter=self._delimiter, strict=True))
        except (csv.Error, StopIteration) as error:
            return MalformedLine(number, "bad_csv", str(error) or "no field", text)
        if len(fields) != len(self._header):
            detail = f"{len(fields)} fields, the header has {len(self._header)}"
            return MalformedLine(number, "wrong_number_of_fields", detail, text)
        row = dict(zip(self._header, fields, strict=True))
        element = {name: row[column] for name, column in self._columns.items()}
        if not element.get("commission_rate", "x").strip():
            del element["commission_rate"]
        return PaymentLine(number, json.dumps(element), json.dumps(row))

    def _read_first_line(self) -> bytes:
        line = self._read_line()
        if line.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise PaymentFileError("the file is UTF-16; save it as UTF-8 first")
        line = line.removeprefix(b"\xef\xbb\xbf")
        while line and not line.strip():
            line = self._read_line()
        if self.broken and not line:
            raise PaymentFileError(self.broken)
        return line

    def _read_header(self) -> tuple[str, list[str]]:
        if len(self._first) > MAX_LINE_BYTES:
            raise PaymentFileError("the first line is too long to be a CSV header")
        try:
            text = self._first.decode("utf-8").strip("\r\n")
        except UnicodeDecodeError:
            raise PaymentFileError("the CSV header is not UTF-8") from None
        headers = {delimiter: _header_fields(text, delimiter) for delimiter in ",;\t|"}
        delimiter = max(headers, key=lambda each: len(headers[each]))
        header = headers[delimiter]
        wanted = {name: self._columns.get(name, name) for name in COLUMNS}
        by_folded = {column.strip().lower(): column for column in header}
        found = {name: by_folded.get(column.strip().lower()) for name, column in wanted.items()}
        missing = [wanted[name] for name in COLUMNS if found[name] is None and self._must_exist(name)]
        if missing:
            raise PaymentFileError(
                f"the CSV header lacks {', '.join(missing)}; it has: {', '.join(header) or 'nothing'}. "
                "Name your own columns with --column CONTRACT_NAME=YOUR_COLUMN"
            )
        if len(by_folded) != len(header):
            names = [column.strip().lower() for column in header]
            twice = {name or "(no name)" for name in names if names.count(name) > 1}
            raise PaymentFileError(f"the CSV header names a column twice: {', '.join(sorted(twice))}")
        self._columns = {name: column for name, column in found.items() if column is not None}
        self.ignored_columns = [column for column in header if column not in self._columns.values()]
        return delimiter, header

    def _must_exist(self, name: str) -> bool:
        return name in REQUIRED_COLUMNS or name in self._columns

    def _read_line(self) -> bytes:
        self._number += 1
        try:
            return self._stream.readline(MAX_LINE_BYTES + 1)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            self.broken = f"the gzip data is damaged or cut off after line {self._number - 1}: {error}"
            return b""

    def _skip_rest_of_line(self, line: bytes) -> None:
        number = self._number
        while line and not line.endswith(b"\n"):
            line = self._read_line()
        self._number = number


def _parse_json(number: int, text: str) -> PaymentLine | MalformedLine:
    try:
        check_json(text)
    except ValueError as error:
        return MalformedLine(number, "not_json", str(error), text)
    return PaymentLine(number, text, text)


def _is_json(line: bytes) -> bool:
    try:
        check_json(line.decode("utf-8"))
    except ValueError:
        return False
    return True


def _header_fields(text: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([text], delimiter=delimiter, strict=True))
    except (csv.Error, StopIteration):
        return []


def _guess_format(path: str, first: bytes) -> Format:
    name = path.lower().removesuffix(".gz")
    if name.endswith((".jsonl", ".ndjson", ".json")):
        return "jsonl"
    if name.endswith((".csv", ".tsv")):
        return "csv"
    return "jsonl" if first.lstrip()[:1] in (b"{", b"[") else "csv"


def _open(path: str) -> IO[bytes]:
    if path == "-":
        return sys.stdin.buffer
    try:
        return Path(path).open("rb")
    except OSError as error:
        raise PaymentFileError(f"cannot open {path}: {error.strerror}") from None


def _decompressed(raw: IO[bytes]) -> IO[bytes]:
    peek = getattr(raw, "peek", None)
    if peek is not None and peek(2)[:2] == b"\x1f\x8b":
        return cast(IO[bytes], gzip.GzipFile(fileobj=raw, mode="rb"))
    return raw
