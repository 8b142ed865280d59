"""JSON as text: split without being rewritten."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.cli.json_text import split_elements

values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(values, max_size=5), st.sampled_from([None, 2]))
def test_an_array_splits_into_its_elements(elements: list[Any], indent: int | None) -> None:
    text = json.dumps(elements, indent=indent)
    assert [json.loads(element) for element in split_elements(f" {text}\n")] == elements


@given(
    st.lists(st.dictionaries(st.text(), values, max_size=3), max_size=5),
    st.sampled_from([None, 2]),
    st.sampled_from(["\n", " ", "\r\n\n"]),
)
def test_values_one_after_the_other_split(elements: list[Any], indent: int | None, between: str) -> None:
    text = between.join(json.dumps(element, indent=indent) for element in elements)
    assert [json.loads(element) for element in split_elements(text)] == elements


def test_the_text_of_an_element_stays_as_it_came() -> None:
    assert split_elements('[ {"a":1e400} , 5.0,"\\ud800"]') == ['{"a":1e400}', "5.0", '"\\ud800"']


@pytest.mark.parametrize(
    "text",
    ["[", "[1", "[1,", "[1,]", "[1 2]", "[,]", "[1]]", "[1] 2", "{", "{} x", "[NaN]", "]", "[" * 5000, "é"],
)
def test_what_is_no_json_raises_value_error(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the message is Python's
        split_elements(text)


@pytest.mark.parametrize("text", ["", " \n", "[]", " [ ] "])
def test_nothing_is_no_element(text: str) -> None:
    assert split_elements(text) == []
