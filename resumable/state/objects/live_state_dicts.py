"""Dicts that belong to a live object, because its `state_dict()` gave them: filling them does not fill the object.

An optimizer, a scheduler or a scaler takes its state from such a dict in `load_state_dict` alone, and so does a module
what is no tensor. A copy that the user made belongs to the user.
"""

from __future__ import annotations

import collections
import gc
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from resumable.errors import StateError
from resumable.state.tensors.facts import same_place

_SCALER = {"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"}
_SCHEDULER = {"last_epoch", "_last_lr"}

T = TypeVar("T")


def refuse_belonging(name: str, tree: Any) -> None:
    """Raise `StateError` where a container, or one inside of it, is the `state_dict()` of a live object."""
    for path, found in _dicts(name, tree):
        sort = _sort_of_owner(found)
        if sort is not None:
            own = path.rpartition(".")[2]
            shown = own if own.isidentifier() else sort
            raise StateError(
                f"{path}: this is the state_dict() of {_article(sort)} {sort}, and what a resume fills into it does "
                f"not reach the {sort}",
                f"pass the {sort} itself by a name of its own: Trainer(..., {shown}={sort}); to keep a copy for "
                "yourself, make it by copy.deepcopy(), and hold None until then",
            )


def _article(sort: str) -> str:
    return "an" if sort[0] in "aeiou" else "a"


def _dicts(path: str, tree: Any) -> Iterator[tuple[str, Any]]:
    """All dicts in the tree with their paths, outermost first."""
    waiting = collections.deque([(path, tree)])
    seen: set[int] = set()
    while waiting:
        at, value = waiting.popleft()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            yield at, value
        parts: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, dict) else enumerate(value)
        waiting.extend((f"{at}.{key}", part) for key, part in parts if isinstance(part, dict | list | tuple))


def _sort_of_owner(found: Any) -> str | None:
    if _is_of_optimizer(found):
        return "optimizer"
    if isinstance(found, collections.OrderedDict) and hasattr(found, "_metadata") and _is_of_module(found):
        return "module"
    if found.keys() >= _SCHEDULER and any(_gave(scheduler, found) for scheduler in _living(LRScheduler)):
        return "scheduler"
    # All its values are numbers, by which a copy cannot be told from what was given.
    if found.keys() == _SCALER and any(True for _ in _living(torch.amp.GradScaler)):
        return "scaler"
    return None


def _is_of_optimizer(found: Any) -> bool:
    """Whether it has that form, and is no copy. Before the first step it holds nothing by which to tell them apart."""
    if not {"state", "param_groups"} <= found.keys():
        return False
    state, groups = found["state"], found["param_groups"]
    if not isinstance(state, dict) or not isinstance(groups, list) or not groups:
        return False
    if not all(isinstance(group, dict) and isinstance(group.get("params"), list) for group in groups):
        return False
    if not state:
        return True
    given = set(_marks(state.values()))
    return any(not given.isdisjoint(_marks(optimizer.state.values())) for optimizer in _living(torch.optim.Optimizer))


def _marks(states: Iterable[Any]) -> Iterator[object]:
    """What the states of parameters are told by: the dicts themselves, and their tensors in memory."""
    for state in states:
        if isinstance(state, dict):
            yield id(state)
            yield from _places(state.values())


def _is_of_module(found: Any) -> bool:
    given = set(_places(found.values()))
    return any(
        not given.isdisjoint(_places(vars(module).get(table, {}).values()))
        for module in _living(nn.Module)
        for table in ("_parameters", "_buffers")
    )


def _places(values: Iterable[Any]) -> Iterator[object]:
    """Where the plain tensors among the values are in memory."""
    for value in values:
        if type(value) in (Tensor, nn.Parameter) and value.device.type != "meta":
            place = same_place(value)
            if place is not None:
                yield place


def _gave(scheduler: Any, found: Any) -> bool:
    """Whether lists of the scheduler itself stand in the dict: torch copies none of them."""
    own = vars(scheduler)
    return any(isinstance(value, list) and own.get(key) is value for key, value in found.items())


def _living(kind: type[T]) -> Iterator[T]:
    for item in gc.get_objects():
        if issubclass(type(item), kind):
            yield item
