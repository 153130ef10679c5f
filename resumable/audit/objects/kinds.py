"""What kinds of objects there are for the audit, how much a change of each one says, and how each one is saved."""

from __future__ import annotations

import gc
import itertools
import types
from collections import deque
from collections.abc import Collection
from typing import Any, cast

import torch
from torch import Tensor

from resumable.audit.objects.findings import saved_as
from resumable.audit.objects.fingerprint import generator_state
from resumable.audit.objects.plain_reads import attributes_of, is_a, is_handle, items_of, length_of, submodules, type_of
from resumable.audit.objects.user_code import is_users

_ITERATORS: tuple[type, ...] = (
    types.GeneratorType,
    zip,
    map,
    filter,
    enumerate,
    reversed,
    itertools.cycle,
    itertools.islice,
    itertools.chain,
    itertools.count,
    type(iter([])),
    type(iter(())),
    type(iter(range(0))),
    type(iter({})),
)
_PREPARERS = {"accelerate", "lightning", "lightning_fabric", "pytorch_lightning"}
_MAX_ITEMS = 32
_MAX_WRAPPERS = 3  # such as `zip` and `map` around each other


def is_array(value: object) -> bool:
    """Return whether this is a tensor or an array."""
    return is_a(value, (Tensor, *type_of("numpy", "ndarray")))


def is_iterator(value: object) -> bool:
    """Return whether this is an iterator whose place cannot be read."""
    return is_a(value, _ITERATORS)


def drives_the_loop(value: object) -> bool:
    """Return whether this iterator hands on the turns of the loop: those are at their place again after a resume."""
    if is_a(value, types.GeneratorType):
        generator = cast(Any, value)
        return bool(generator.gi_running) or not is_users(generator.gi_code)
    todo = [value]
    for _ in range(_MAX_WRAPPERS):
        todo = [below for each in todo for below in gc.get_referents(each)[:_MAX_WRAPPERS]]
        if any(_is_ours(each) or (is_a(each, types.GeneratorType) and drives_the_loop(each)) for each in todo):
            return True
    return False


def holds_handles(value: object) -> bool:
    """Return whether this container has nothing but handles, such as bars that are kept open."""
    if not length_of(value):
        return False
    items = [item for _, item in items_of(value, ends=_MAX_ITEMS)]
    return all(is_handle(item) or any(map(_is_ours, attributes_of(item).values())) for item in items)


def is_prepared(value: object) -> bool:
    """Return whether this is an object of Accelerate, Fabric or Lightning, which other lines are about."""
    return type(value).__module__.partition(".")[0] in _PREPARERS


def is_schedule(value: object) -> bool:
    """Return whether this is a learning rate scheduler of torch's."""
    return is_a(value, type_of("torch.optim.lr_scheduler", "LRScheduler"))


def is_training_state(value: object) -> bool:
    """Return whether any change of this object matters for the training, whatever code does with it."""
    if is_a(value, torch.nn.Module):
        return any(attributes_of(part).get("_parameters") for _, part in submodules(value))
    is_known = is_a(value, (torch.optim.Optimizer, *type_of("torch.amp", "GradScaler"))) or is_schedule(value)
    return is_known or generator_state(value) is not None


def is_holder(value: object, given: Collection[int]) -> bool:
    """Return whether an object holds parts of the training, which are objects of their own.

    A trainer of the user's does. Of the object itself only those attributes count that the loop changes.
    """
    if is_a(value, (torch.nn.Module, torch.optim.Optimizer)) or is_schedule(value):
        return False
    parts = (torch.nn.Module, torch.optim.Optimizer, torch.utils.data.DataLoader)
    held = attributes_of(value).values()
    return any(is_a(each, parts) or id(each) in given or _is_ours(each) for each in held)


def _is_ours(value: object) -> bool:
    return type(value).__module__.partition(".")[0] == "resumable"


def is_data(value: object) -> bool:
    """Return whether this is a loader, a dataset or a sampler: generators inside of it are keyed by address."""
    return is_a(value, (torch.utils.data.DataLoader, torch.utils.data.Dataset, torch.utils.data.Sampler))


def is_saved_with_data(value: object) -> bool:
    """Return whether this is a sampler or a dataset with a state, which checkpoints have beside the objects."""
    return is_a(value, (torch.utils.data.Dataset, torch.utils.data.Sampler)) and has_state_dict(value)


def may_be_only_shown(value: object) -> bool:
    """Return whether all code that reads an object is at hand: it is a container, an array, a metric or the user's.

    Methods of other libraries may write what they hold into their arguments.
    """
    if is_data(value):
        return False
    kind = type(value)
    if kind.__module__.partition(".")[0] in ("builtins", "collections", "torchmetrics") or is_array(value):
        return True
    methods = [each for each in vars(kind).values() if type(each) is types.FunctionType]
    return bool(methods) and any(is_users(each.__code__) for each in methods)


def has_state_dict(value: object) -> bool:
    """Return whether the class of an object has both methods of an object with a state."""
    kind: Any = type(value)
    return all(any(name in vars(each) for each in kind.__mro__) for name in ("state_dict", "load_state_dict"))


def how_to_save(path: str, value: object, *, holds_parts: bool) -> tuple[str, str | None]:
    """Return the shortest advice that saves an object, and the name that it then has in checkpoints.

    `holds_parts` says that it is the object of a whole training.
    """
    if holds_parts or is_a(value, type):
        return "keep what changes in a dict that is passed to Trainer(...)", None
    if is_iterator(value) or any("__next__" in vars(kind) for kind in type(value).__mro__):
        return "its place is lost in a resume; let trainer.cycle(loader) make it", None
    is_filled = is_a(value, (dict, list, deque)) or is_array(value) or generator_state(value) is not None
    if is_filled or has_state_dict(value):
        return saved_as(path, path)
    if length_of(value) is not None:
        return "keep it in a dict that is passed to Trainer(...), and use it from there", None
    return saved_as(path, f"attributes({path})")
