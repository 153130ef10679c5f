"""The default tolerance of an export: how far outputs may differ from those of the live model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

# The largest absolute difference of an output that passes by default, by the output's dtype.
TOLERANCES: Mapping[str, float] = {"float16": 1e-3, "bfloat16": 1e-2}
DEFAULT_TOLERANCE = 1e-4


def default_tolerance(dtypes: Iterable[str]) -> float:
    """Return the strictest default among the floating-point outputs.

    Integer outputs are ignored: they differ by at least 1, which no default allows.
    """
    fractional = [dtype for dtype in dtypes if "float" in dtype or "complex" in dtype]
    return min((TOLERANCES.get(dtype, DEFAULT_TOLERANCE) for dtype in fractional), default=DEFAULT_TOLERANCE)
