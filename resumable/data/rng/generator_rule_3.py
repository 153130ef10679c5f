"""Rule 3: rule 2, and the module variables that the user's own code names. Never changed, since runs go on by it.

A function of the user's that the walk reaches leads to the functions, classes, objects and generators of the user's
modules that its code names. They are far, so whatever rule 2 finds near is found first.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any, TypeGuard

import torch

from resumable.data.object_walk import Child, WalkRule, walk
from resumable.data.rng import generator_rule_2
from resumable.data.rng.generator_rule import is_generator
from resumable.data.rng.generator_rule_2 import MAX_ITEMS
from resumable.data.rng.named_globals import NamedGlobals, globals_of, is_users_class
from resumable.data.rng.static_attributes import package_of

_RULE_2 = generator_rule_2.RULE
_FAR = 16
_PLAIN = frozenset({"builtins", "collections", "functools"})  # containers, and wrappers of functions
# Large, and no place for the generators of a dataset.
_LEFT_OUT = (torch.nn.Module, torch.optim.Optimizer, torch.utils.data.DataLoader)
# Objects of installed libraries are followed only where a generator is near.
_NEAR = replace(_RULE_2, max_effort=2_000)


def _children(item: object) -> Iterator[Child]:
    if type(item) is NamedGlobals:
        yield from ((name, value) for name, value in item.children if _is_followed(value))
        return
    yield from _RULE_2.children(item)
    found = globals_of(item)
    if found is not None:
        yield "variables", found


def _is_followed(value: object) -> bool:
    kind = type(value)
    if issubclass(kind, _LEFT_OUT) or _RULE_2.is_skipped(value):
        return False
    is_ours = package_of(kind) in _PLAIN or is_users_class(kind)
    return is_ours or bool(walk((value,), _NEAR).found)


def _step(item: object) -> int:
    return _FAR if type(item) is NamedGlobals else _RULE_2.step(item)


def _effort(item: object) -> int:
    return 1 if type(item) is NamedGlobals else _RULE_2.effort(item)


def _is_skipped(item: object) -> bool:
    return type(item) is not NamedGlobals and _RULE_2.is_skipped(item)


def _is_long(item: object) -> TypeGuard[Collection[object]]:
    """Return whether a container of Python's own has too many items to be followed, and generators among the first."""
    if not issubclass(type(item), (list, tuple, dict)) or type(item).__module__ != "builtins":
        return False
    values: Any = item.values() if isinstance(item, dict) else item
    return len(values) > MAX_ITEMS and any(map(is_generator, itertools.islice(values, MAX_ITEMS)))


RULE = replace(_RULE_2, children=_children, step=_step, effort=_effort, is_skipped=_is_skipped)

TOO_LONG: WalkRule[Collection[object]] = WalkRule(
    is_wanted=_is_long,
    is_skipped=lambda item: not _is_long(item) and _is_skipped(item),
    children=_children,
    max_effort=RULE.max_effort,
    max_depth=RULE.max_depth,
    left_out=RULE.left_out,
    step=_step,
    effort=_effort,
)
"""Finds containers of more generators than get a key, for a warning."""
