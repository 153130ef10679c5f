"""What a loop may log: one number per name, copied at once; knows nothing of when or where it is kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from resumable.errors import StateError


def copied(name: str, value: Any) -> Any:
    """The number that is logged, untouched by what happens to `value` later; never waits for a device.

    Raises `StateError` for what is not one number.
    """
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        return value.detach().reshape(()).clone()
    if isinstance(value, int | float) or (hasattr(value, "__float__") and getattr(value, "ndim", 0) == 0):
        return float(value)
    raise StateError(
        f"log({name}=...): expected a number or a 0-d tensor, found {type(value).__name__}", "log one number per name"
    )


def as_numbers(logged: Mapping[str, Any]) -> dict[str, float]:
    """The logged values as floats; waits for the devices that hold them."""
    return {name: float(value) for name, value in logged.items()}
