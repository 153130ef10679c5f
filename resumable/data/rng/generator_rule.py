"""The type of a rule by which random generators are found. Independent of any single rule.

Which generators a rule finds, and under which path, decides bits. So rules have numbers, a run keeps to the rule that
it began with, and no rule is ever changed: to find other generators, add a rule.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, TypeGuard

import numpy as np
import torch

from resumable.data.object_walk import WalkRule

AnyGenerator: TypeAlias = (
    torch.Generator | np.random.Generator | np.random.RandomState | np.random.BitGenerator | random.Random
)
_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, np.random.BitGenerator, random.Random)
Found: TypeAlias = dict[str, AnyGenerator]  # by path


def is_generator(item: object) -> TypeGuard[AnyGenerator]:
    """Return whether the real type of an object is one that a key can seed."""
    return issubclass(type(item), _GENERATORS)


def _all_of_them(found: Found) -> Found:
    return found


@dataclass(frozen=True)
class GeneratorRule(WalkRule[AnyGenerator]):
    """One rule: a walk that wants generators, and which of the found ones get a key."""

    keyed: Callable[[Found], Found] = _all_of_them
