"""Choose the adapter for each registered object by its kind; the entry point to this room for saving and restoring."""

from __future__ import annotations

import collections
import re
import sys
from collections.abc import Mapping
from typing import cast

import numpy as np
import torch

from resumable.errors import StateError
from resumable.prepared.preparers import preparer
from resumable.state.codec.tree import Tree
from resumable.state.objects import modules
from resumable.state.objects.adapter import Adapter, BaseAdapter, unwrapped
from resumable.state.objects.generators import GENERATOR_TYPES, GeneratorAdapter
from resumable.state.objects.modules import ModuleAdapter
from resumable.state.objects.optimizers import OptimizerAdapter, is_standard, parameter_names
from resumable.state.objects.plain.attributes import Attributes, is_plain
from resumable.state.objects.plain.containers import AttributesAdapter, ContainerAdapter
from resumable.state.objects.plain.in_place import FILLED
from resumable.state.objects.plain.live_state_dicts import refuse_live_state_dicts
from resumable.state.objects.plain.parts import Given, is_container, taken_apart
from resumable.state.objects.plain.tensors import TENSOR_TYPES, TensorAdapter
from resumable.state.objects.preparers import PreparerAdapter
from resumable.state.objects.round_trip import differences, verify_round_trip
from resumable.state.objects.stateful import StatefulAdapter, is_stateful
from resumable.utils.messages import quoted

__all__ = ["Adapter", "adapt", "differences", "empty_state_warning", "is_empty", "loadable_state", "verify_round_trip"]

# Names that the format reserves, and the reason in messages.
_WHY_RESERVED = {
    "carried": "the variables that are given to trainer.carry() are stored under this name",
    "golden": "the input that is given to trainer.golden() is stored under this name",
    "gradients": "the gradients that wait for an optimizer are stored under this name",
    "sampling_orders": "the orders of samplers are stored under this name",
}
RESERVED = tuple(_WHY_RESERVED)
MAX_NAME_BYTES = 181  # file names add a suffix, and filesystems limit their length


def adapt(objects: Mapping[str, object]) -> dict[str, Adapter]:
    """Return an adapter for each object, by name; also for those in containers and attributes.

    Raises:
        StateError: A name is not usable, an object has two names, or an object has no state to save.
    """
    for name in objects:
        _check_name(name)
    given = taken_apart(objects)
    inner = {name: unwrapped(target) for name, target in given.objects.items()}
    registered = {name: target for name, target in inner.items() if isinstance(target, torch.nn.Module)}
    first: dict[int, str] = {}
    adapters: dict[str, Adapter] = {}
    for name, target in inner.items():
        _check_length(name)
        same = next((other for other in adapters if other.casefold() == name.casefold()), None)
        if same is not None:
            raise StateError(
                f"{name}: differs from {same} in upper and lower case only, which some filesystems do not distinguish",
                "give it another name",
            )
        other = first.setdefault(id(target.target if isinstance(target, Attributes) else target), name)
        if other != name:
            raise StateError(f"{name}: the same object as {other}", "pass each object once")
        adapters[name] = _adapter(name, target, registered, given)
    return adapters


def is_empty(tree: Tree) -> bool:
    """Return whether a captured tree holds no value that a resume could restore."""
    if isinstance(tree, dict | list | set | tuple) and not tree:
        return True
    return (
        isinstance(tree, dict)
        and set(tree) == {"state", "metadata", "buffers", "requires_grad", "training"}
        and (not tree["state"] and not tree["buffers"])
    )


def empty_state_warning(adapter: Adapter, tree: Tree) -> str | None:
    """Return the warning about a captured tree that is unexpectedly empty, or None.

    A plain container may be filled later, and a disabled `GradScaler` has no state.
    """
    target = adapter.target
    disabled = isinstance(target, torch.amp.GradScaler) and not target.is_enabled()
    if adapter.kind not in ("module", "stateful") or not is_empty(tree) or disabled:
        return None
    hint = "; call persistent(True) on the metric before Trainer(...)" if _has_metrics(target) else ""
    return f"its state is empty, so a resume will restore nothing of it ({adapter.type}){hint}"


def loadable_state(kind: str, tree: Tree) -> Tree:
    """Return the argument for `load_state_dict`: a module's `state_dict` with its metadata, or the whole tree.

    Of carried variables it is their values, by name.
    """
    if kind in ("attributes", "carried", "tensor", "array"):
        inside: Tree = tree[kind if kind in ("tensor", "array") else "values"]  # type: ignore[index, call-overload]
        return inside
    return modules.loadable_state_dict(tree) if kind == "module" else tree


def _has_metrics(target: object) -> bool:
    """Return whether an object is, or contains, a metric of torchmetrics."""
    metric = getattr(sys.modules.get("torchmetrics"), "Metric", None)
    if metric is None or not isinstance(target, torch.nn.Module):
        return False
    return any(isinstance(part, metric) for part in target.modules())


def _adapter(name: str, target: object, registered: Mapping[str, torch.nn.Module], given: Given) -> Adapter:
    if isinstance(target, BaseAdapter):
        return cast(Adapter, target)  # an adapter already, from a caller with its own kind of object
    if isinstance(target, torch.nn.Module):
        return ModuleAdapter(name, target)
    if isinstance(target, torch.optim.Optimizer) and is_standard(target):
        return OptimizerAdapter(name, target, lambda: parameter_names(registered))
    if isinstance(target, GENERATOR_TYPES):
        return GeneratorAdapter(name, target)
    if isinstance(target, Attributes):
        refuse_live_state_dicts(name, target.values())
        return AttributesAdapter(name, target, given)
    if type(target) in FILLED or (is_container(target) and _can_change(target)):
        refuse_live_state_dicts(name, target)
        return ContainerAdapter(name, target, given)
    if type(target) in TENSOR_TYPES:
        return TensorAdapter(name, target)
    prepares = preparer(name, target)
    if prepares is not None:
        return PreparerAdapter(name, target, prepares)
    if is_stateful(target):
        return StatefulAdapter(name, target)
    raise StateError(f"{name}: {type(target).__name__} has no state_dict() and load_state_dict()", _hint(name, target))


def _can_change(values: object) -> bool:
    """Return whether anything in a tuple can be filled, or has a state of its own."""
    if isinstance(values, tuple):
        return any(map(_can_change, tuple.__iter__(values)))
    return type(values) in (*FILLED, *TENSOR_TYPES) or is_stateful(unwrapped(values))


def _check_name(name: str) -> None:
    reason = _WHY_RESERVED[name] if name in RESERVED else None
    if not name.isidentifier():
        reason = "it is not a Python identifier, and becomes part of file and tensor names"
    elif re.fullmatch(r"group\d+", name):
        reason = "it is reserved for parameters that belong to no registered module"
    if reason is not None:
        another = f"{name}_" if name.isidentifier() and len(name) < MAX_NAME_BYTES // 4 else "model"
        raise StateError(
            f"{quoted(name)}: cannot be the name of an object: {reason}",
            f"pass it under another name: Trainer(..., {another}=...)",
        )


def _check_length(name: str) -> None:
    length = len(name.encode()) + name.count(".")  # a dot takes two bytes in the name of a file
    if length > MAX_NAME_BYTES:
        raise StateError(
            f"{quoted(name)}: cannot be the name of an object: it has {length} bytes, expected at most "
            f"{MAX_NAME_BYTES}",
            "pass it under another name: Trainer(..., model=...)",
        )


def _hint(name: str, target: object) -> str:
    if isinstance(target, type):
        return "pass an instance, not the class"
    if isinstance(target, frozenset):
        return "keep its members in a list, and pass that"
    if isinstance(target, dict | list | collections.deque):
        return "use a plain one in the loop itself: a copy made here would not follow the original"
    if isinstance(target, torch.Tensor | np.ndarray):
        return "pass a plain tensor or array, for example .as_subclass(torch.Tensor)"
    if isinstance(target, tuple | int | float | complex | str | bytes | np.generic):
        return (
            f"call trainer.carry({name!r}) for a variable of the loop, or put it into a plain dict, which is filled in "
            f"place: Trainer(..., values={{{name!r}: ...}})"
        )
    if not is_plain(target):
        return "add these two methods, or leave it out if it does not change during training"
    return (
        f"make its attributes its state: Trainer(..., {name}=attributes(...)), by `from resumable import attributes`; "
        "or add these two methods, or leave it out if it does not change during training"
    )
