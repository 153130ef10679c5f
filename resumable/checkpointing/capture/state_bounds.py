"""Refuse at step 0 a state that its optimizers will make too large; warn of empty states, and of those that grow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from resumable.checkpointing.capture.snapshot import Captured
from resumable.errors import StateError
from resumable.state.codec.small_tensors import is_small
from resumable.store.documents.strict_record import MAX_TENSORS

_Group = Mapping[str, Any]

# By the name in `torch.optim`: the tensors that a first step adds for a parameter of a group, without its scalars.
_TENSORS: Mapping[str, Callable[[_Group, Tensor], int]] = {
    "ASGD": lambda group, parameter: 1,
    "Adadelta": lambda group, parameter: 2,
    "Adafactor": lambda group, parameter: 2 if parameter.ndim > 1 else 1,
    "Adagrad": lambda group, parameter: 1,
    "Adam": lambda group, parameter: 2 + bool(group["amsgrad"]),
    "AdamW": lambda group, parameter: 2 + bool(group["amsgrad"]),
    "Adamax": lambda group, parameter: 2,
    "Muon": lambda group, parameter: 1,
    "NAdam": lambda group, parameter: 2,
    "RAdam": lambda group, parameter: 2,
    "RMSprop": lambda group, parameter: 1 + bool(group["momentum"]) + bool(group["centered"]),
    "Rprop": lambda group, parameter: 2,
    "SGD": lambda group, parameter: int(bool(group["momentum"])),
    "SparseAdam": lambda group, parameter: 2,
}


def tensors_to_come(optimizer: object) -> int:
    """Return the number of tensors that a first step of one of torch's own optimizers adds to the files.

    0 for other optimizers, and for LBFGS, whose state does not grow with the number of parameters.
    """
    count = _TENSORS.get(type(optimizer).__name__)
    if count is None or type(optimizer) is not getattr(torch.optim, type(optimizer).__name__, None):
        return 0
    assert isinstance(optimizer, torch.optim.Optimizer)
    held = {id(parameter) for parameter in optimizer.state}
    return sum(
        count(group, parameter) + _scalars_on_device(group, parameter)
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.requires_grad and id(parameter) not in held and not is_small(parameter)
    )


def _scalars_on_device(group: _Group, parameter: Tensor) -> int:
    """Return how many scalars, such as the step, are kept on a device; those of the host stand in the document."""
    return int(not parameter.is_cpu and bool(group.get("capturable") or group.get("fused")))


def refuse_too_many(objects: Mapping[str, Captured], optimizers: Iterable[object], *, most: int = MAX_TENSORS) -> None:
    """Raise `StateError` if a state is larger than a checkpoint may be, or will be once its optimizers have stepped."""
    here = sum(len(each.encoded.tensors) + len(each.encoded.aliases) for each in objects.values())
    to_come = sum(map(tensors_to_come, optimizers))
    if here + to_come > most:
        when = " once the optimizers have stepped" if to_come else ""
        raise StateError(
            f"the state: expected at most {most} tensors, found {here + to_come}{when}",
            "keep the state in fewer and larger tensors",
        )


def growing(objects: Mapping[str, Captured]) -> dict[str, str]:
    """Return the warning for each object whose plain values take more than half of what the format allows."""
    return {
        name: f"{name}: its plain values take {each.encoded.share:.0%} of what one object may hold, and saves fail at "
        "100 %; keep long histories in a tensor or a NumPy array"
        for name, each in objects.items()
        if each.encoded.share > 0.5
    }


class GrowthWarnings:
    """Logs once each object whose values take half of what the format allows."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._warned: set[str] = set()  # the names of objects

    def look(self, objects: Mapping[str, Captured]) -> None:
        """Look at the objects of one snapshot."""
        for name, warning in growing(objects).items():
            if name not in self._warned:
                self._warned.add(name)
                self._warn(warning)


def warn_of_empty(objects: Mapping[str, Captured], warn: Callable[[str], None]) -> None:
    """Log each object whose state holds nothing."""
    for name, each in objects.items():
        if each.emptiness:
            warn(f"{name}: {each.emptiness}")
