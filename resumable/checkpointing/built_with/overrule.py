"""Set what the config overrules, once everything is restored: the value of this launch in place of the checkpoint's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch.optim import Optimizer

from resumable.checkpointing.built_with.changes import SettingChange
from resumable.checkpointing.built_with.settings import Settings, base_rates, schedulers_in
from resumable.state.objects.adapter import Adapter


def overrule(changed: Iterable[SettingChange], settings: Settings, adapters: Mapping[str, Adapter]) -> None:
    """Set each setting that changed to the value of this launch; a rate also in the schedulers of its optimizer."""
    # First the rates, from which schedulers compute.
    for change in sorted(changed, key=lambda each: not isinstance(_target(each, adapters), Optimizer)):
        target, setting = _target(change, adapters), settings[change.key]
        value, (path, _, name) = setting.values[change.place], change.path.rpartition(".")
        if isinstance(target, Optimizer):
            _overrule_group(target, change, name, value, adapters)
            continue
        for at, scheduler in schedulers_in(change.key.partition(".")[0], target):
            if at == path:
                with _following(scheduler):
                    setattr(scheduler, name, value)
                    for follower, computed in setting.followers.items():
                        setattr(scheduler, follower, deepcopy(computed))


def _target(change: SettingChange, adapters: Mapping[str, Adapter]) -> Any:
    owner = change.key.partition(".")[0]
    return adapters[owner].target if owner in adapters else None


@contextmanager
def _following(scheduler: Any) -> Iterator[None]:
    """Move the rates with a scheduler, where they are those of its formula: it would go on from the old ones."""
    before = _by_formula(scheduler)
    groups = getattr(getattr(scheduler, "optimizer", None), "param_groups", ())
    yield
    now = _by_formula(scheduler)
    for group, base, old, new in zip(groups, base_rates(scheduler), before, now, strict=False):
        if math.isclose(_number(group["lr"]), old, rel_tol=1e-6, abs_tol=1e-9 * abs(base)):
            _set_rate_of_instant(group, new)


def _by_formula(scheduler: Any) -> list[Any]:
    """Return the rates of the instant as a function of the settings and the steps; none where torch has no formula."""
    formula = getattr(scheduler, "_get_closed_form_lr", None)
    return list(formula()) if callable(formula) else []


def _overrule_group(
    optimizer: Optimizer, change: SettingChange, name: str, value: Any, adapters: Mapping[str, Adapter]
) -> None:
    if change.place >= len(optimizer.param_groups):
        return
    group = optimizer.param_groups[change.place]
    if name != "lr":
        group[name] = value
        return
    _set_rate(group, value, before=change.before)
    for adapter in adapters.values():
        for _, scheduler in schedulers_in(adapter.name, adapter.target):
            if getattr(scheduler, "optimizer", None) is optimizer:
                _set_at(base_rates(scheduler), change.place, value)
                _set_at(getattr(scheduler, "_last_lr", None), change.place, _number(group["lr"]))


def _set_rate(group: dict[str, Any], rate: Any, *, before: Any) -> None:
    """Set the rate of a group; where a scheduler has moved it, in proportion, so that the schedule goes on with it."""
    now = rate
    if "initial_lr" in group:
        reached = _number(group["lr"])
        now = rate if reached == before or not before else reached * (rate / before)
        group["initial_lr"] = rate
    _set_rate_of_instant(group, now)


def _set_rate_of_instant(group: dict[str, Any], rate: Any) -> None:
    if isinstance(group["lr"], torch.Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def _set_at(values: Any, place: int, value: Any) -> None:
    if isinstance(values, list) and place < len(values):
        values[place] = value


def _number(rate: Any) -> Any:
    return rate.item() if isinstance(rate, torch.Tensor) else rate
