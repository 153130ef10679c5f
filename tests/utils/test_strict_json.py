"""JSON that is bounded and means one thing."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resumable.utils import strict_json

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=15,
)


@given(values)
def test_what_is_dumped_comes_back_the_same(value: object) -> None:
    try:
        data = strict_json.dumps(value)
    except UnicodeEncodeError:
        return  # a lone surrogate, which is no text
    back = strict_json.loads(data)
    assert back == value
    assert repr(back) == repr(value)  # 1, 1.0 and True are equal, and so are 0.0 and -0.0


@given(st.binary(max_size=200))
def test_any_bytes_are_parsed_or_refused_with_a_value_error(data: bytes) -> None:
    try:
        value = strict_json.loads(data)
    except ValueError:
        return
    assert json.loads(data) == value


def test_dumps_is_compact_and_keeps_the_order_of_insertion() -> None:
    assert strict_json.dumps({"b": [1, 2], "a": "é"}) == '{"b":[1,2],"a":"é"}'.encode()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_json_lacks_are_refused_in_both_directions(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        strict_json.dumps([value])
    with pytest.raises(ValueError, match="is not JSON"):
        strict_json.loads(json.dumps([value]).encode())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"[1,]", "not valid JSON"),
        (b"1 2", "not valid JSON: Extra data"),
        (b'{"a": 1} {"b": 2}', "not valid JSON: Extra data"),
        (b"{'a': 1}", "not valid JSON"),
        (b'"\xff"', "not UTF-8 at byte 1"),
        (b'\xef\xbb\xbf{"a": 1}', "BOM"),
        (b'{"a": 1, "a": 1}', "duplicate key 'a'"),
        (b'[{"x": {"b": 1, "c": 2, "b": 3}}]', "duplicate key 'b'"),
        (b'{"a": 1, "\\u0061": 2}', "duplicate key 'a'"),
        (b"[" * 65 + b"]" * 65, "nested deeper than 64"),
        (b"[" * 1_000_000, "nested deeper than 64"),
        (b'{"a":' * 1_000_000, "nested deeper than 64"),
    ],
)
def test_text_that_is_not_one_bounded_value_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        strict_json.loads(data)


def test_the_bounds_are_the_callers() -> None:
    assert strict_json.loads(b"[[1]]", max_bytes=5, max_depth=2, max_items=2) == [[1]]
    with pytest.raises(ValueError, match="5 bytes of JSON, more than the 4 allowed"):
        strict_json.loads(b"[[1]]", max_bytes=4)
    with pytest.raises(ValueError, match="deeper than 1"):
        strict_json.loads(b"[[1]]", max_depth=1)
    with pytest.raises(ValueError, match="more than 3 items"):
        strict_json.loads(b"[1,2,3,4]", max_items=3)


def test_brackets_and_commas_inside_strings_do_not_count() -> None:
    text = '[{,\\"' * 1000
    assert strict_json.loads(strict_json.dumps([text]), max_depth=1, max_items=1) == [text]


def test_an_unclosed_quote_ends_the_parsing_before_the_brackets_behind_it() -> None:
    with pytest.raises(ValueError, match="not valid JSON: Unterminated string"):
        strict_json.loads(b'"' + b"[" * 100)


def test_escaped_quotes_without_an_end_take_linear_time() -> None:
    with pytest.raises(ValueError, match="not valid JSON"):
        strict_json.loads(b'"' + b'\\"' * 1_000_000)


def test_a_number_too_long_to_convert_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="digits"):
        strict_json.loads(b"1" * 10_000)


@pytest.mark.parametrize("text", [b"1e999", b"[-1e999]", b"1" * 400 + b".0"])
def test_a_float_beyond_all_floats_is_refused_and_never_infinity(text: bytes) -> None:
    with pytest.raises(ValueError, match="no finite number"):
        strict_json.loads(text)


def test_nothing_is_dumped_that_would_not_be_loaded() -> None:
    with pytest.raises(ValueError, match="9 bytes of JSON, more than the 8 allowed"):
        strict_json.dumps([1, 2, 3, 4], max_bytes=8)
    with pytest.raises(ValueError, match="more than 3 items"):
        strict_json.dumps([1, 2, 3, 4], max_items=3)
    assert strict_json.dumps(["[,{" * 99], max_items=1) == b'["' + b"[,{" * 99 + b'"]'


def test_brackets_that_only_close_are_counted_too() -> None:
    with pytest.raises(ValueError, match="more than 5 items"):
        strict_json.loads(b"]" * 6, max_items=5)
    with pytest.raises(ValueError, match="or brackets without partners"):
        strict_json.loads(b"[]" * 1000 + b"]" * 1000)


def test_strings_are_told_from_the_rest_across_the_pieces_that_are_looked_at() -> None:
    text = '\\"[' * 50_000
    assert strict_json.loads(strict_json.dumps([text, [text]]), max_depth=2, max_items=3) == [text, [text]]
