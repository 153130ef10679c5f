"""Checks of single values and of lists of numbers."""

from __future__ import annotations

import pytest

from resumable.utils.checks import is_count, no_finite_number


@pytest.mark.parametrize(("value", "expected"), [(0, True), (5, True), (-1, False), (True, False), (1.0, False)])
def test_a_count_is_a_whole_number_from_zero_on(value: object, expected: bool) -> None:
    assert is_count(value) is expected


def test_a_count_may_have_a_bound() -> None:
    assert is_count(9, below=10)
    assert not is_count(10, below=10)
    assert not is_count(0, below=0)


def test_outputs_without_a_finite_number_are_explained() -> None:
    assert no_finite_number([], []) == "no number at all"
    assert no_finite_number([0, 0], [False, False]) == "no number at all"
    assert no_finite_number([2, 3], [False, False]) == "no finite number among the 5"
    assert no_finite_number([2, 3], [False, True]) is None
