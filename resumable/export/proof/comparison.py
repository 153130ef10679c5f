"""Outputs beside those that were expected: bits, and the largest difference; needs NumPy alone, and runs nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from resumable.utils.checks import no_finite_number

Values = np.ndarray[Any, Any]
"""Whole numbers as they are, since float64 does not tell all of 64 bits apart; all else in float64."""


@dataclass(frozen=True)
class Output:
    """One tensor that a model gave: what it is, its bytes in row-major order, and its values for reckoning."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes
    values: Values


@dataclass(frozen=True)
class Compared:
    """Whether all bits are equal, and the largest difference: absolute, and relative to the largest expected number.

    Differences are infinite where one is a number and the other is not.
    """

    identical: bool
    absolute: float
    relative: float


def compare(found: Sequence[Output], expected: Sequence[Output]) -> Compared:
    """All outputs in their order; `ValueError` where number, dtypes or shapes are others."""
    if len(found) != len(expected):
        raise ValueError(f"{len(found)} outputs, expected {len(expected)}")
    for number, (one, other) in enumerate(zip(found, expected, strict=True)):
        if (one.dtype, one.shape) != (other.dtype, other.shape):
            raise ValueError(
                f"output {number} is {one.dtype}{list(one.shape)}, expected {other.dtype}{list(other.shape)}"
            )
    pairs = [_difference(one.values, other.values) for one, other in zip(found, expected, strict=True)]
    return Compared(
        all(one.data == other.data for one, other in zip(found, expected, strict=True)),
        max((absolute for absolute, _ in pairs), default=0.0),
        max((relative for _, relative in pairs), default=0.0),
    )


def nothing_in(values: Sequence[np.ndarray[Any, Any]]) -> str | None:
    """Return in words why any model would pass by these outputs, or None if they hold a finite number."""
    return no_finite_number([each.size for each in values], (bool(np.isfinite(each).any()) for each in values))


def _difference(found: Values, expected: Values) -> tuple[float, float]:
    same = (found == expected) | (np.isnan(found) & np.isnan(expected))
    if same.all():
        return 0.0, 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        absolute = float(np.abs(_exact(found[~same]) - _exact(expected[~same])).max())
    if not math.isfinite(absolute):
        return math.inf, math.inf
    largest = float(np.abs(expected[np.isfinite(expected)].astype(np.float64)).max(initial=0.0))
    return absolute, absolute / largest if largest else math.inf


def _exact(values: Values) -> Values:
    return values.astype(object) if values.dtype.kind in "iu" else values  # Python's whole numbers never overflow
