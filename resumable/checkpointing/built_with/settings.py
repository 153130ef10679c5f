"""The settings of an object: the plain values that a program builds it with. Independent of checkpoints.

A setting has one value for each parameter group of an optimizer, and for each of the repeated parts of a module.
"""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

MAX_SETTINGS = 512  # of all objects together
MAX_PARTS = 10_000  # of one module, of schedulers inside of one another, and of parameter groups
MAX_ITEMS = 16  # of one value
MAX_CHARACTERS = 40  # of one text

_RATES = ("base_lrs", "base_values")  # what schedulers of torch, and of timm, multiply
_COUNTERS = (*_RATES, "last_epoch", "metric")  # state, which follows from the rates and the steps
_PHASES = "_schedule_phases"
_STATE_OF_MODULES = ("training",)


@dataclass(frozen=True)
class Setting:
    """The values of one setting, and the path of each in this program.

    `restored` is true where a restore brings the checkpoint's value back; elsewhere that of this launch stays.
    `followers` are attributes that were computed from it.
    """

    paths: tuple[str, ...]
    values: tuple[Any, ...]
    restored: bool
    followers: Mapping[str, Any] = field(default_factory=dict)


Settings: TypeAlias = Mapping[str, Setting]
"""By key: the path with `*` for the number of a part, and without the number of a group."""


def settings_of(name: str, target: object) -> dict[str, Setting]:
    """Return the settings of one object under its name; none for an object of another kind."""
    if isinstance(target, Optimizer):
        return _of_groups(name, target)
    if isinstance(target, nn.Module):
        parts = islice(target.named_modules(prefix=name), MAX_PARTS)
        return _merged(((path, part) for path, part in parts), _STATE_OF_MODULES, restored=False)
    found = _merged(schedulers_in(name, target), _COUNTERS, restored=True)
    if f"{name}.total_steps" in found and hasattr(target, _PHASES):  # of OneCycleLR
        followers = {_PHASES: deepcopy(getattr(target, _PHASES))}
        found[f"{name}.total_steps"] = replace(found[f"{name}.total_steps"], followers=followers)
    return found


def schedulers_in(name: str, target: object) -> Iterator[tuple[str, Any]]:
    """Yield a scheduler and those inside of it, by path; nothing for any other object."""
    waiting = collections.deque([(name, target)])
    for _ in range(MAX_PARTS):
        if not waiting:
            return
        path, each = waiting.popleft()
        inner = getattr(each, "scheduler", None)
        if isinstance(inner, LRScheduler):  # of Accelerate
            waiting.append((path, inner))
        elif is_scheduler(each):
            yield path, each
            inside = vars(each).get("_schedulers", ())
            waiting.extend((f"{path}.{number}", one) for number, one in enumerate(inside))


def is_scheduler(target: object) -> bool:
    """Return whether an object is a scheduler of torch, or one in its manner."""
    return isinstance(target, LRScheduler) or any(type(getattr(target, rates, None)) is list for rates in _RATES)


def base_rates(scheduler: object) -> list[Any]:
    """Return the list of the rates that a scheduler multiplies, one for each group; an empty one without."""
    found = [rates for name in _RATES if isinstance(rates := getattr(scheduler, name, None), list)]
    return found[0] if found else []


def plain(value: object) -> Any:
    """Return a value as JSON has it; raise `ValueError` for what is not a plain value."""
    if isinstance(value, collections.Counter):
        value = sorted(value.elements())
    if isinstance(value, torch.Tensor) and value.numel() == 1 and not value.is_complex() and not value.is_meta:
        value = value.detach().item()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) < 2**63:
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if isinstance(value, str) and len(value) <= MAX_CHARACTERS:
        return value
    if isinstance(value, list | tuple) and len(value) <= MAX_ITEMS:
        return [plain(item) for item in value]
    raise ValueError(f"a {type(value).__name__}")


def _of_groups(name: str, optimizer: Optimizer) -> dict[str, Setting]:
    groups = optimizer.param_groups[:MAX_PARTS]
    numbered = [name] if len(groups) == 1 else [f"{name}.{number}" for number in range(len(groups))]
    found: dict[str, Setting] = {}
    for key in dict.fromkeys(key for group in groups for key in group if key not in ("params", "initial_lr")):
        # A scheduler sets the rate of the instant when it is built, and keeps the given one as the initial.
        given = [group.get("initial_lr", group.get(key)) if key == "lr" else group.get(key) for group in groups]
        if all(map(_is_plain, given)):
            paths = tuple(f"{path}.{key}" for path in numbered)
            found[f"{name}.{key}"] = Setting(paths, tuple(map(_copied, given)), restored=True)
    return found


def _merged(parts: Iterable[tuple[str, Any]], without: Collection[str], *, restored: bool) -> dict[str, Setting]:
    """Return the plain attributes of parts by their paths, those that differ in numbers alone under one key."""
    paths, values = collections.defaultdict[str, list[str]](list), collections.defaultdict[str, list[Any]](list)
    for path, part in parts:
        for name, value in list(vars(part).items()):
            if not name.startswith("_") and name not in without and _is_setting(part, name, value):
                key = re.sub(r"\.\d+(?=\.)", ".*", f"{path}.{name}")
                paths[key].append(f"{path}.{name}")
                values[key].append(_copied(value))
    return {key: Setting(tuple(each), tuple(values[key]), restored) for key, each in paths.items()}


def _is_setting(part: object, name: str, value: object) -> bool:
    if isinstance(value, torch.Tensor) or not _is_plain(value):
        return False
    # Any other text may be a token, or the path of a folder of this launch.
    is_declared = name in getattr(type(part), "__constants__", ()) or isinstance(part, LRScheduler)
    return is_declared or not _has_text(value)


def _is_plain(value: object) -> bool:
    try:
        plain(value)
    except ValueError:
        return False
    return True


def _has_text(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list | tuple) and any(map(_has_text, value)))


def _copied(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().item()
    return value.copy() if isinstance(value, list | collections.Counter) else value
