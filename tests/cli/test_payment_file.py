"""The reader of payment files: every line is a payment or malformed, none is lost, none spoils another."""

import gzip
import io
import json
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.cli.payment_file import (
    COLUMNS,
    MAX_LINE_BYTES,
    MalformedLine,
    PaymentFile,
    PaymentFileError,
    PaymentLine,
)

HEADER = ",".join(COLUMNS)
ROW = "c1,r1,+23276000001,pay-1,1234,5000,,"
GOOD = '{"monime_transaction_id": "pay-%d"}'


def read(tmp_path: Path, data: bytes, **options: Any) -> list[PaymentLine | MalformedLine]:
    path = tmp_path / "payments"
    path.write_bytes(data)
    with PaymentFile(str(path), **options) as source:
        return list(source)


def element(line: PaymentLine | MalformedLine) -> Any:
    assert isinstance(line, PaymentLine)
    return json.loads(line.element)


def reason(line: PaymentLine | MalformedLine) -> str:
    assert isinstance(line, MalformedLine)
    return line.reason


# -- JSON lines ---------------------------------------------------------------------------------------------


def test_json_lines_are_handed_on_untouched(tmp_path: Path) -> None:
    raw = '{"amount": 1e400, "big": %s, "amount": 5.0, "text": "\\ud800 \\u0000 é"}' % ("9" * 5000)
    [line] = read(tmp_path, raw.encode())
    assert isinstance(line, PaymentLine)
    assert line.element == raw
    assert line.original == raw


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (b'{"amount": 1', "not_json"),
        (b'{"amount": NaN}', "not_json"),
        (b'{"amount": -Infinity}', "not_json"),
        (b"<html></html>", "not_json"),
        (b'{"a": 1} {"b": 2}', "not_json"),
        (b"[" * 101 + b"]" * 101, "not_json"),
        (b"[" * 100_000, "not_json"),
        (b'{"name": "caf\xe9"}', "not_utf8"),
        (b'{"pad": "' + b"x" * MAX_LINE_BYTES + b'"}', "too_long"),
    ],
)
def test_a_malformed_line_is_told_and_its_neighbours_are_read(tmp_path: Path, bad: bytes, why: str) -> None:
    before, after = (GOOD % 1).encode(), (GOOD % 2).encode()
    lines = read(tmp_path, b"\n".join([before, bad, after]), kind="jsonl")
    assert [line.number for line in lines] == [1, 2, 3]
    assert element(lines[0]) == json.loads(before)
    assert reason(lines[1]) == why
    assert element(lines[2]) == json.loads(after)


def test_deep_nesting_inside_a_string_is_no_nesting(tmp_path: Path) -> None:
    raw = json.dumps({"note": "[{" * 500})
    assert element(read(tmp_path, raw.encode())[0]) == json.loads(raw)


def test_any_json_value_is_left_to_the_database(tmp_path: Path) -> None:
    lines = read(tmp_path, b'{"a": 1}\n5\n"text"\nnull\n[1]\n', kind="jsonl")
    assert [element(line) for line in lines] == [{"a": 1}, 5, "text", None, [1]]


def test_blank_lines_are_skipped_but_counted(tmp_path: Path) -> None:
    lines = read(tmp_path, b"\n \n" + (GOOD % 1).encode() + b"\r\n\n" + (GOOD % 2).encode())
    assert [line.number for line in lines] == [3, 5]


@pytest.mark.parametrize("data", [b'[\n  {"amount": 1}\n]\n', b'[{"amount": 1}, {"amount": 2}]'])
def test_one_big_array_is_refused_with_advice(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(PaymentFileError, match="jq"):
        read(tmp_path, data)


# -- CSV ----------------------------------------------------------------------------------------------------


def test_csv_cells_become_texts_under_the_contract_names(tmp_path: Path) -> None:
    [line] = read(tmp_path, f"{HEADER}\nc1,r1,+232 76,pay-1,1234,5000,0.05,K7\n".encode())
    assert element(line) == {
        "company_id": "c1",
        "route_id": "r1",
        "passenger_phone": "+232 76",
        "monime_transaction_id": "pay-1",
        "monime_otp": "1234",
        "amount": "5000",
        "commission_rate": "0.05",
        "payment_code": "K7",
    }


def test_an_empty_commission_rate_means_the_companys(tmp_path: Path) -> None:
    [line] = read(tmp_path, f"{HEADER}\n{ROW}\n".encode())
    assert "commission_rate" not in element(line)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_csv_dialects_of_spreadsheets_are_read(tmp_path: Path, delimiter: str, end: str) -> None:
    text = end.join([HEADER, ROW, ROW.replace("pay-1", '"pay, ""2"""')]).replace(",", delimiter)
    text = text.replace(f"pay{delimiter}", "pay,")
    lines = read(tmp_path, b"\xef\xbb\xbf" + text.encode(), kind="csv")
    assert [element(line)["monime_transaction_id"] for line in lines] == ["pay-1", 'pay, "2"']


def test_columns_are_found_in_any_order_and_case_and_others_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "payments.csv"
    path.write_text(
        "Amount ,note,MONIME_OTP,monime_transaction_id,passenger_phone,route_id,company_id\n1,x,2,3,4,5,6\n"
    )
    with PaymentFile(str(path)) as source:
        [line] = list(source)
        assert source.ignored_columns == ["note"]
    assert element(line)["amount"] == "1"
    assert element(line)["company_id"] == "6"
    assert "note" not in element(line)
    assert isinstance(line, PaymentLine)
    assert json.loads(line.original)["note"] == "x"


def test_columns_can_be_named(tmp_path: Path) -> None:
    header = HEADER.replace("monime_transaction_id", "Ref. No")
    [line] = read(tmp_path, f"{header}\n{ROW}\n".encode(), columns={"monime_transaction_id": "Ref. No"})
    assert element(line)["monime_transaction_id"] == "pay-1"


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        (HEADER.replace("amount", "price"), {}),
        (HEADER, {"payment_code": "gone"}),
        (f"{HEADER},Amount", {}),
        ("", {}),
    ],
)
def test_an_unfit_header_stops_before_anything_is_sent(
    tmp_path: Path, header: str, columns: dict[str, str]
) -> None:
    with pytest.raises(PaymentFileError):
        read(tmp_path, f"{header}\n{ROW}\n".encode(), kind="csv", columns=columns)


def test_a_stray_quote_spoils_its_own_line_only(tmp_path: Path) -> None:
    lines = read(tmp_path, f'{HEADER}\n"{ROW}\n{ROW}\n'.encode(), kind="csv")
    assert reason(lines[0]) == "bad_csv"
    assert element(lines[1])["monime_transaction_id"] == "pay-1"


@pytest.mark.parametrize("row", [f"{ROW},", ROW[:-1], "x"])
def test_a_row_with_too_many_or_too_few_fields_is_malformed(tmp_path: Path, row: str) -> None:
    assert reason(read(tmp_path, f"{HEADER}\n{row}\n".encode())[0]) == "wrong_number_of_fields"


# -- the file as a whole ------------------------------------------------------------------------------------


def test_gzip_is_recognised_without_a_suffix(tmp_path: Path) -> None:
    lines = read(tmp_path, gzip.compress("\n".join(GOOD % n for n in range(3)).encode()))
    assert [element(line)["monime_transaction_id"] for line in lines] == ["pay-0", "pay-1", "pay-2"]


def test_a_cut_off_gzip_gives_what_is_whole_and_says_so(tmp_path: Path) -> None:
    data = gzip.compress("".join(GOOD % n + "\n" for n in range(50_000)).encode())
    path = tmp_path / "cut.jsonl.gz"
    path.write_bytes(data[: len(data) // 2])
    with PaymentFile(str(path)) as source:
        lines = list(source)
        assert source.broken is not None
    assert len(lines) > 1000
    assert all(isinstance(line, PaymentLine) for line in lines)


@pytest.mark.parametrize("data", ["{}".encode("utf-16"), b"\x1f\x8b\x08 no gzip at all"])
def test_an_unreadable_file_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(PaymentFileError):
        read(tmp_path, data)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PaymentFileError, match="cannot open"):
        PaymentFile(str(tmp_path / "none"))


def test_standard_input_is_read_and_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = io.TextIOWrapper(io.BufferedReader(io.BytesIO((GOOD % 1).encode())))
    monkeypatch.setattr(sys, "stdin", stdin)
    with PaymentFile("-") as source:
        assert len(list(source)) == 1
        assert source.size is None
    assert not stdin.closed


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    peaks: list[int] = []
    for count in (1_000, 50_000):
        path.write_text((GOOD % 1 + "\n") * count)
        tracemalloc.start()
        with PaymentFile(str(path)) as source:
            assert sum(1 for _ in source) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 2 * peaks[0]


@given(st.lists(st.binary(max_size=60).filter(lambda data: b"\n" not in data), min_size=1, max_size=20))
def test_no_bytes_stop_the_reader_and_every_line_is_accounted_for(lines: list[bytes]) -> None:
    for kind, header in (("jsonl", b"0\n"), ("csv", f"{HEADER}\n".encode())):
        stdin = io.TextIOWrapper(io.BufferedReader(io.BytesIO(header + b"\n".join(lines))))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdin", stdin)
            with PaymentFile("-", kind=kind) as source:  # type: ignore[arg-type]
                numbers = [line.number for line in source]
        expected = [number for number, line in enumerate(lines, 2) if line.strip()]
        assert [number for number in numbers if number > 1] == expected
