"""Set what the config overrules, once everything is restored: the value of this launch in place of the checkpoint's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.optim import Optimizer

from resumable.checkpointing.built_with.changes import Change
from resumable.checkpointing.built_with.settings import Settings, base_rates, schedulers_in
from resumable.state.objects.adapter import Adapter


def overrule(changed: Iterable[Change], settings: Settings, adapters: Mapping[str, Adapter]) -> None:
    """Set each setting that changed to the value of this launch; a rate also in the schedulers of its optimizer."""
    for change in changed:
        owner, _, name = change.key.partition(".")
        value = settings[change.key].values[change.place]
        target = adapters[owner].target if owner in adapters else None
        if isinstance(target, Optimizer):
            _overrule_group(target, change, name, value, adapters)
        elif target is not None:
            for path, scheduler in schedulers_in(owner, target):
                if change.path.rpartition(".")[0] == path:
                    setattr(scheduler, change.path.rpartition(".")[2], value)


def _overrule_group(
    optimizer: Optimizer, change: Change, name: str, value: Any, adapters: Mapping[str, Adapter]
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
    if isinstance(group["lr"], torch.Tensor):
        group["lr"].fill_(now)
    else:
        group["lr"] = now


def _set_at(values: Any, place: int, value: Any) -> None:
    if isinstance(values, list) and place < len(values):
        values[place] = value


def _number(rate: Any) -> Any:
    return rate.item() if isinstance(rate, torch.Tensor) else rate
