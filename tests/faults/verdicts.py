"""What a fault left of what had been saved: loaded, lost, wrong or nothing; knows no fault and no file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

Values = Mapping[str, Tensor]


class Verdict(StrEnum):
    """Of one state that a fault left."""

    RIGHT = "right"
    NONE = "none loadable"
    WRONG = "silently wrong"
    LOST = "acknowledged and lost"


@dataclass(frozen=True)
class Found:
    """What a reader gave: the step that it says this is, and the values."""

    step: int
    values: Values


def values(step: int, *, family: int = 0) -> dict[str, Tensor]:
    """What the training holds after `step`: three pages and a bit, other at every other step and in every other run."""
    random = torch.Generator().manual_seed(1000 * family + step + 1)
    return {
        "large": torch.randn(6, 512, generator=random),
        "small": torch.randn(3, generator=random),
        "step": torch.tensor(step),
    }


def judge(load: Callable[[], Found | None], *, acknowledged: int | None) -> Verdict:
    """Load, and compare with what every step's values are. `acknowledged`: the newest step that must not be lost.

    Nothing to load is right only where nothing was acknowledged; an error is none loadable even there, for it stands in
    the way of a new start.
    """
    try:
        found = load()
    except KeyboardInterrupt:
        raise
    except BaseException:  # torch.distributed.checkpoint raises some that are no Exception
        return Verdict.NONE
    if found is None:
        return Verdict.RIGHT if acknowledged is None else Verdict.NONE
    if not same(found.values, values(found.step)):
        return Verdict.WRONG
    return Verdict.LOST if acknowledged is not None and found.step < acknowledged else Verdict.RIGHT


def same(one: Values, other: Values) -> bool:
    """Equal names, types, shapes and bits."""
    return one.keys() == other.keys() and all(_same_tensor(one[name], other[name]) for name in one)


def _same_tensor(one: object, other: Tensor) -> bool:
    if not isinstance(one, Tensor) or one.dtype != other.dtype or one.shape != other.shape:
        return False
    return one.detach().numpy().tobytes() == other.numpy().tobytes()
