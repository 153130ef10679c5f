"""The ids of everything that belongs to the objects of a launch, and so is in its checkpoints.

The ids are taken anew at each look, while the objects live. Independent of names.
"""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from resumable.audit.objects.plain_reads import PLAIN, attributes_of, is_a, items_of, length_of, submodules, type_of

MAX_VISITED = 20_000  # beside the parts of modules and optimizers, all of which are visited
MAX_DEPTH = 6
MAX_ENDS = 1024  # items at each end of a container


def given_ids(objects: Mapping[str, object]) -> set[int]:
    """Return the ids of the objects and of all that their states reach."""
    seen: set[int] = set()
    first = [each for each in objects.values() if is_a(each, (torch.nn.Module, torch.optim.Optimizer))]
    for each in first:
        seen |= {id(each), *map(id, _inside(each))}
    left = MAX_VISITED
    todo = deque((each, 0) for each in (*first, *objects.values()))
    visited: set[int] = set()
    while todo and left > 0:
        value, depth = todo.popleft()
        if id(value) in visited or is_a(value, (*PLAIN, type, types.ModuleType, types.FunctionType)):
            continue
        left -= 1
        visited.add(id(value))
        if depth < MAX_DEPTH and not is_a(value, Tensor):
            todo += ((child, depth + 1) for child in _inside(value))
    return seen | visited


def _inside(value: Any) -> Iterator[object]:
    if length_of(value) is not None:
        return (item for _, item in items_of(value, ends=MAX_ENDS))
    if is_a(value, torch.nn.Module):
        return module_parts(value)
    if is_a(value, torch.optim.Optimizer):
        return _of_optimizer(value)
    # A scheduler refers to its optimizer, and does not save it.
    schedules = is_a(value, type_of("torch.optim.lr_scheduler", "LRScheduler"))
    return (child for name, child in attributes_of(value).items() if not (schedules and name == "optimizer"))


def module_parts(module: torch.nn.Module) -> Iterator[object]:
    """Yield the submodules, parameters and buffers of a module: its plain attributes are in no checkpoint."""
    for _, part in submodules(module):
        held = attributes_of(part)
        yield part
        for table in ("_parameters", "_buffers"):
            yield from held.get(table, {}).values()


def _of_optimizer(optimizer: torch.optim.Optimizer) -> Iterator[object]:
    held = attributes_of(optimizer)
    state = held.get("state", {})
    yield from (held.get("param_groups"), state)
    yield from (each for each in held.values() if is_a(each, torch.optim.Optimizer))  # of a wrapper
    if is_a(state, dict):
        yield from dict.keys(state)
