"""Checks of single values and of lists of numbers. Imports neither torch nor NumPy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def is_count(value: object, *, below: int | None = None) -> bool:
    """Return whether a value is a whole number from 0 on, and less than `below`; a bool is not one."""
    return type(value) is int and value >= 0 and (below is None or value < below)


def no_finite_number(sizes: Sequence[int], finite: Iterable[bool]) -> str | None:
    """Return in words why any model would pass by such outputs, or None if there is a finite number in them.

    `sizes` are their numbers of elements, and `finite` whether each holds a finite number.
    """
    if not sum(sizes):
        return "no number at all"
    return None if any(finite) else f"no finite number among the {sum(sizes)}"
