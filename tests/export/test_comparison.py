"""Outputs beside those that were expected, number by number and bit by bit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from resumable.export.proof.comparison import (
    ModelOutput,
    OutputComparison,
    compare_outputs,
    outputs_of_arrays,
    outputs_of_tensors,
    uninformative_arrays,
)

NAN, INF = math.nan, math.inf
SAME = OutputComparison(True, 0.0, 0.0)


def outputs(*values: Any, dtype: str = "float32") -> list[ModelOutput]:
    return outputs_of_arrays([np.asarray(each, dtype) for each in values])


def compared(found: Any, expected: Any, *, dtype: str = "float32") -> OutputComparison:
    return compare_outputs(outputs(found, dtype=dtype), outputs(expected, dtype=dtype))


@pytest.mark.parametrize("value", [1.5, [1.0, NAN], [INF, -INF], -0.0, [], np.zeros((0, 3)), [[1], [2]]])
def test_what_has_the_same_bits_is_identical_and_differs_by_nothing(value: Any) -> None:
    assert compared(value, value) == SAME


@given(arrays(np.float32, array_shapes(min_dims=0, min_side=0, max_side=4)))
def test_any_array_is_identical_to_itself(values: np.ndarray[Any, Any]) -> None:
    assert compared(values, values.copy()) == SAME


@given(
    arrays(np.float32, 5, elements=st.floats(-1e6, 1e6, width=32)),
    arrays(np.float32, 5, elements=st.floats(-1e6, 1e6, width=32)),
)
def test_the_difference_is_the_largest_and_the_relative_one_is_of_the_largest_that_was_expected(
    found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]
) -> None:
    result = compared(found, expected)
    largest = max(abs(float(a) - float(b)) for a, b in zip(found, expected, strict=True))
    assert result.absolute == largest
    scale = float(np.abs(expected.astype(np.float64)).max())
    assert result.relative == (0.0 if not largest else largest / scale if scale else INF)


def test_a_zero_of_the_other_sign_is_not_identical_and_differs_by_nothing() -> None:
    assert compared([1.0, -0.0], [1.0, 0.0]) == OutputComparison(False, 0.0, 0.0)


def test_another_nan_is_not_identical_and_differs_by_nothing() -> None:
    quiet = np.array([0x7FC00000, 0x7FC00001], np.uint32).view(np.float32)
    assert compared(quiet[:1], quiet[1:]) == OutputComparison(False, 0.0, 0.0)


@pytest.mark.parametrize(
    ("found", "expected"), [(NAN, 1.0), (1.0, NAN), (INF, 1.0), (1.0, INF), (INF, -INF), (NAN, INF), (INF, NAN)]
)
def test_a_number_beside_none_differs_without_end(found: float, expected: float) -> None:
    assert compared([0.5, found], [0.5, expected]) == OutputComparison(False, INF, INF)


def test_one_number_in_its_place_does_not_hide_another_that_is_none() -> None:
    assert compared([INF, NAN, 2.0], [INF, NAN, NAN]).absolute == INF


def test_the_relative_difference_of_what_was_expected_to_be_zero_has_no_end() -> None:
    assert compared([1e-30], [0.0]) == OutputComparison(False, float(np.float32(1e-30)), INF)


def test_infinities_that_were_expected_do_not_make_the_others_look_small() -> None:
    assert compared([INF, 3.0], [INF, 2.0]) == OutputComparison(False, 1.0, 0.5)


def test_the_largest_of_all_outputs_counts_wherever_it_is() -> None:
    found, expected = outputs(1.0, [2.0, 4.5], 8.0), outputs(1.0, [2.0, 4.0], 8.0)
    assert compare_outputs(found, expected) == OutputComparison(False, 0.5, 0.125)


def test_whole_numbers_and_truths_are_compared_too() -> None:
    assert compared([1, 200], [1, 100], dtype="uint8").absolute == 100
    assert compared([True, False], [True, True], dtype="bool").absolute == 1
    assert compared([2**40], [2**40], dtype="int64") == SAME


@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_whole_numbers_are_told_apart_where_float64_cannot(dtype: str) -> None:
    assert compared([2**62 + 1, 5], [2**62, 5], dtype=dtype).absolute == 1
    pair = [outputs_of_tensors([torch.tensor([number], dtype=getattr(torch, dtype))]) for number in (2**62 + 1, 2**62)]
    assert compare_outputs(*pair).absolute == 1
    assert compared([0], [2**63 - 1], dtype=dtype).absolute == float(2**63 - 1)


def test_of_complex_numbers_both_parts_are_compared() -> None:
    found, expected = (outputs_of_tensors([torch.tensor([complex(1, part)])]) for part in (2, 5))
    assert compare_outputs(found, found) == SAME
    assert compare_outputs(found, expected) == OutputComparison(False, 3.0, 0.6)


def test_no_outputs_are_the_same_as_none() -> None:
    assert compare_outputs([], []) == SAME


@pytest.mark.parametrize(
    ("found", "expected", "said"),
    [
        (outputs(1.0), outputs(1.0, 2.0), "1 outputs, expected 2"),
        (outputs(1.0, [1.0]), outputs(1.0, [[1.0]]), r"output 1 is float32\[1\], expected float32\[1, 1\]"),
        (outputs(1.0), outputs([1.0]), r"output 0 is float32\[\], expected float32\[1\]"),
        (outputs(1.0, dtype="float64"), outputs(1.0), r"output 0 is float64\[\], expected float32\[\]"),
        (
            outputs(np.zeros((0, 2))),
            outputs(np.zeros((2, 0))),
            r"output 0 is float32\[0, 2\], expected float32\[2, 0\]",
        ),
    ],
)
def test_other_numbers_shapes_and_dtypes_are_told(
    found: list[ModelOutput], expected: list[ModelOutput], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        compare_outputs(found, expected)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([], "no number at all"),
        ([np.zeros((0, 3))], "no number at all"),
        ([np.full(2, NAN), np.full((3, 1), INF)], "no finite number among the 5"),
        ([np.full(2, NAN), np.asarray(0.0)], None),
        ([np.zeros(0), np.asarray(7)], None),
        ([np.asarray(False)], None),
        ([np.asarray(complex(NAN, 1.0))], "no finite number among the 1"),
    ],
)
def test_arrays_without_a_finite_number_are_nothing_to_compare_with(values: list[Any], said: str | None) -> None:
    assert uninformative_arrays(values) == said
