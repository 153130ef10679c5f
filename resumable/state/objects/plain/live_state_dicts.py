"""Refuse dicts that a live object's `state_dict()` returned: a restore would fill the dict and not the object.

Optimizers, schedulers and scalers read such a dict in `load_state_dict` only, and so do modules for values that are not
tensors. A copy that the user made is accepted.
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

_SEQUENCES = (list, tuple, collections.deque)
_SCALER = {"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"}
_SCHEDULER = {"last_epoch", "_last_lr"}

T = TypeVar("T")
_Dict = dict[Any, Any]


def refuse_live_state_dicts(name: str, tree: object) -> None:
    """Raise `StateError` if a container, or one inside it, is the `state_dict()` of a live object."""
    for path, found in _dicts(name, tree):
        owner = _kind_of_owner(found)
        if owner is not None:
            last = path.rpartition(".")[2]
            shown = last if last.isidentifier() else owner
            raise StateError(
                f"{path}: this is the state_dict() of {_article(owner)} {owner}, which a resume fills without "
                f"reaching the {owner}",
                f"pass the {owner} itself under its own name: Trainer(..., {shown}={owner}); to keep a copy for "
                "yourself, make it with copy.deepcopy(), and hold None until then",
            )


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"


def _dicts(path: str, tree: object) -> Iterator[tuple[str, _Dict]]:
    """Yield all dicts in the tree with their paths, outermost first."""
    waiting: collections.deque[tuple[str, object]] = collections.deque([(path, tree)])
    seen: set[int] = set()
    while waiting:
        at, value = waiting.popleft()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            yield at, value
        parts: Iterable[tuple[object, object]] = []
        if isinstance(value, dict):
            parts = value.items()
        elif isinstance(value, _SEQUENCES):
            parts = enumerate(value)
        waiting.extend((f"{at}.{key}", part) for key, part in parts if isinstance(part, (dict, *_SEQUENCES)))


def _kind_of_owner(found: _Dict) -> str | None:
    if _is_of_optimizer(found):
        return "optimizer"
    if isinstance(found, collections.OrderedDict) and hasattr(found, "_metadata") and _is_of_module(found):
        return "module"
    if found.keys() >= _SCHEDULER and any(_returned(scheduler, found) for scheduler in _living(LRScheduler)):
        return "scheduler"
    # All its values are numbers, so a copy cannot be distinguished from the original.
    if found.keys() == _SCALER and any(True for _ in _living(torch.amp.GradScaler)):
        return "scaler"
    return None


def _is_of_optimizer(found: _Dict) -> bool:
    """Return whether a dict has an optimizer's layout and is no copy; before the first step a copy counts too."""
    if not {"state", "param_groups"} <= found.keys():
        return False
    state, groups = found["state"], found["param_groups"]
    if not isinstance(state, dict) or not isinstance(groups, list) or not groups:
        return False
    if not all(isinstance(group, dict) and isinstance(group.get("params"), list) for group in groups):
        return False
    if not state:
        return True
    marks = set(_marks(state.values()))
    return any(not marks.isdisjoint(_marks(optimizer.state.values())) for optimizer in _living(torch.optim.Optimizer))


def _marks(states: Iterable[object]) -> Iterator[object]:
    """Yield the identities of parameters' states: of the dicts, and of their tensors in memory."""
    for state in states:
        if isinstance(state, dict):
            yield id(state)
            yield from _places(state.values())


def _is_of_module(found: _Dict) -> bool:
    tensors = set(_places(found.values()))
    return any(
        not tensors.isdisjoint(_places(vars(module).get(table, {}).values()))
        for module in _living(nn.Module)
        for table in ("_parameters", "_buffers")
    )


def _places(values: Iterable[object]) -> Iterator[object]:
    """Yield the memory locations of the plain tensors among the values."""
    for value in values:
        if isinstance(value, Tensor) and type(value) in (Tensor, nn.Parameter) and value.device.type != "meta":
            place = same_place(value)
            if place is not None:
                yield place


def _returned(scheduler: LRScheduler, found: _Dict) -> bool:
    """Return whether the dict holds lists of the scheduler itself: torch copies none of them."""
    own = vars(scheduler)
    return any(isinstance(value, list) and own.get(key) is value for key, value in found.items())


def _living(kind: type[T]) -> Iterator[T]:
    for item in gc.get_objects():
        if issubclass(type(item), kind):
            yield item
