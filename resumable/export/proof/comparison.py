"""Compare a model's outputs with the expected ones: bits, and the largest difference. Needs NumPy alone, runs nothing.

torch is imported only to convert its own tensors.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from resumable.utils.checks import no_finite_number

if TYPE_CHECKING:
    from torch import Tensor

Values: TypeAlias = np.ndarray[Any, Any]
"""An array of any shape and dtype."""


@dataclass(frozen=True)
class ModelOutput:
    """One tensor that a model returned: dtype, shape, and its bytes in row-major order.

    `values` are for arithmetic: integers as they are, since float64 cannot represent all of 64 bits, others in float64.
    """

    dtype: str
    shape: tuple[int, ...]
    data: bytes
    values: Values


@dataclass(frozen=True)
class OutputComparison:
    """Equality of all bits, and the largest difference: absolute, and relative to the largest expected number.

    Differences are infinite where one of the two is a number and the other is not.
    """

    identical: bool
    absolute: float
    relative: float


def outputs_of_arrays(arrays: Iterable[Values]) -> list[ModelOutput]:
    """Convert NumPy arrays to outputs."""
    return [_output_of_array(np.asarray(array)) for array in arrays]


def _output_of_array(array: Values) -> ModelOutput:
    values = array if array.dtype.kind in "iu" else array.astype(np.float64)
    return ModelOutput(str(array.dtype), array.shape, array.tobytes(), values)


def outputs_of_tensors(tensors: Iterable[Tensor]) -> list[ModelOutput]:
    """Convert torch tensors to outputs."""
    return [_output_of_tensor(tensor) for tensor in tensors]


def _output_of_tensor(value: Tensor) -> ModelOutput:
    import torch

    from resumable.state.tensors.facts import bytes_of

    plain = value.detach().cpu()
    dtype = str(plain.dtype).removeprefix("torch.")
    parts = torch.view_as_real(plain.resolve_conj()) if plain.is_complex() else plain
    is_integer = not parts.is_floating_point() and parts.dtype is not torch.bool
    values = (parts if is_integer else parts.double()).numpy()
    return ModelOutput(dtype, tuple(plain.shape), bytes(bytes_of(plain)), values)


def compare_outputs(found: Sequence[ModelOutput], expected: Sequence[ModelOutput]) -> OutputComparison:
    """Compare outputs pairwise, in their order; `ValueError` where their number, dtypes or shapes differ."""
    if len(found) != len(expected):
        raise ValueError(f"{len(found)} outputs, expected {len(expected)}")
    for number, (one, other) in enumerate(zip(found, expected, strict=True)):
        if (one.dtype, one.shape) != (other.dtype, other.shape):
            raise ValueError(
                f"output {number} is {one.dtype}{list(one.shape)}, expected {other.dtype}{list(other.shape)}"
            )
    pairs = [_difference(one.values, other.values) for one, other in zip(found, expected, strict=True)]
    return OutputComparison(
        all(one.data == other.data for one, other in zip(found, expected, strict=True)),
        max((absolute for absolute, _ in pairs), default=0.0),
        max((relative for _, relative in pairs), default=0.0),
    )


def uninformative_arrays(values: Sequence[Values]) -> str | None:
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
    return values.astype(object) if values.dtype.kind in "iu" else values  # Python's integers never overflow
