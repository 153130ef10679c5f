"""Tells what kind of object each one is and adapts it; the face of this layer for those who save and restore."""

from __future__ import annotations

import collections
import re
import sys
from collections.abc import Mapping
from typing import Any, cast

import torch

from resumable.errors import StateError
from resumable.state.objects import modules
from resumable.state.objects.adapter import Adapter, Plain, unwrapped
from resumable.state.objects.containers import CONTAINER_TYPES, ContainerAdapter, advice_for_parts, has_state
from resumable.state.objects.generators import GENERATOR_TYPES, GeneratorAdapter
from resumable.state.objects.live_state_dicts import refuse_belonging
from resumable.state.objects.modules import ModuleAdapter
from resumable.state.objects.optimizers import OptimizerAdapter, is_standard, parameter_names
from resumable.state.objects.round_trip import differences, verify_round_trip
from resumable.state.objects.tree_copies import Own
from resumable.utils.messages import quoted

__all__ = ["Adapter", "adapt", "differences", "emptiness", "is_empty", "verify_round_trip", "weights"]

# Names, and why the format has them for itself.
_WHY_RESERVED = {
    "golden": "the input that is given to trainer.golden() is stored under this name",
    "gradients": "the gradients that wait for an optimizer are stored under this name",
    "state": "its file would be called as the one that holds the values of all objects",
}
RESERVED = tuple(_WHY_RESERVED)
MAX_NAME_BYTES = 181  # longer ones leave no room for what the names of files add


class StatefulAdapter(Plain):
    """Anything with `state_dict` and `load_state_dict`: schedulers, scalers, metrics, environments."""

    kind = "stateful"

    def capture(self) -> Any:
        return self.target.state_dict()

    def _restore(self, tree: Any, own: Own) -> None:
        # Its own: some implementations change what they are given, and most keep parts of it.
        self.target.load_state_dict(own(tree, self.target.state_dict()))


def adapt(objects: Mapping[str, Any]) -> dict[str, Adapter]:
    """An adapter for each object, under its name.

    Raises `StateError` for a bad name, the same object under two names, and an object that has no state to save.
    """
    inner = {name: unwrapped(target) for name, target in objects.items()}
    registered = {name: target for name, target in inner.items() if isinstance(target, torch.nn.Module)}
    first: dict[int, str] = {}
    adapters: dict[str, Adapter] = {}
    for name, target in inner.items():
        _check_name(name)
        twin = next((known for known in adapters if known.casefold() == name.casefold()), None)
        if twin is not None:
            raise StateError(
                f"{name}: differs from {twin} in upper and lower case only, and some filesystems see no difference",
                "give it another name",
            )
        other = first.setdefault(id(target), name)
        if other != name:
            raise StateError(f"{name}: the same object as {other}", "pass each object once")
        adapters[name] = _adapter(name, target, registered)
    return adapters


def is_empty(tree: Any) -> bool:
    """True where a captured tree holds nothing that could come back."""
    if isinstance(tree, dict | list | set | tuple) and not tree:
        return True
    return (
        isinstance(tree, dict)
        and set(tree) == {"state", "metadata", "buffers", "requires_grad", "training"}
        and (not tree["state"] and not tree["buffers"])
    )


def emptiness(adapter: Adapter, tree: Any) -> str | None:
    """What to warn of where a captured tree holds nothing, and something was to be expected; otherwise None.

    A plain container may well be filled later, and a `GradScaler` that is switched off has no state.
    """
    target = adapter.target
    switched_off = isinstance(target, torch.amp.GradScaler) and not target.is_enabled()
    if adapter.kind not in ("module", "stateful") or not is_empty(tree) or switched_off:
        return None
    hint = "; call persistent(True) on the metric before Trainer(...)" if _measures(target) else ""
    return f"its state is empty, so nothing of it will come back ({adapter.type}){hint}"


def weights(kind: str, tree: Any) -> Any:
    """What a reader wants of a stored object: a module's `state_dict` with its metadata, of others the whole tree."""
    return modules.weights(tree) if kind == "module" else tree


def _measures(target: Any) -> bool:
    """Whether it is a metric of torchmetrics, or holds some."""
    metric = getattr(sys.modules.get("torchmetrics"), "Metric", None)
    if metric is None or not isinstance(target, torch.nn.Module):
        return False
    return any(isinstance(part, metric) for part in target.modules())


def _adapter(name: str, target: Any, registered: Mapping[str, torch.nn.Module]) -> Adapter:
    if isinstance(target, Plain):
        return cast(Adapter, target)  # an adapter already, of what knows more of its object than can be seen here
    if isinstance(target, torch.nn.Module):
        return ModuleAdapter(name, target)
    if isinstance(target, torch.optim.Optimizer) and is_standard(target):
        return OptimizerAdapter(name, target, lambda: parameter_names(registered))
    if isinstance(target, GENERATOR_TYPES):
        return GeneratorAdapter(name, target)
    if type(target) in CONTAINER_TYPES:
        refuse_belonging(name, target)
        return ContainerAdapter(name, target)
    if has_state(target):
        return StatefulAdapter(name, target)
    raise StateError(f"{name}: {type(target).__name__} has no state_dict() and load_state_dict()", _hint(target))


def _check_name(name: str) -> None:
    reason = _WHY_RESERVED[name] if name in RESERVED else None
    if not name.isidentifier():
        reason = "it is no identifier of Python, and names of files and tensors are made of it"
    elif re.fullmatch(r"group\d+", name):
        reason = "parameters that belong to no given module are named so"
    elif len(name.encode()) > MAX_NAME_BYTES:
        reason = f"it has {len(name.encode())} bytes, expected at most {MAX_NAME_BYTES}"
    if reason is not None:
        another = f"{name}_" if name.isidentifier() and len(name) < MAX_NAME_BYTES // 4 else "model"
        raise StateError(
            f"{quoted(name)}: cannot be the name of an object: {reason}",
            f"pass it by another name: Trainer(..., {another}=...)",
        )


def _hint(target: Any) -> str:
    if isinstance(target, type):
        return "pass an instance, not the class"
    if isinstance(target, tuple | frozenset) and any(map(has_state, target)):
        return "pass each of its members by a name of its own"
    if isinstance(target, dict | list | collections.deque):
        return advice_for_parts(target) or ""
    if isinstance(target, tuple | torch.Tensor | int | float | str):
        return "put it into a plain dict, which is filled in place: Trainer(..., progress={'value': ...})"
    return "give it these two methods, or leave it out if nothing of it changes during training"
