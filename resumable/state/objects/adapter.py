"""What every kind of object offers to be captured and restored, and how one is peeled out of its wrappers."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor

from resumable.errors import RunMismatchError
from resumable.state.codec.encoder import advice
from resumable.state.objects.tree_copies import Own, fresh, moved
from resumable.state.tensors.facts import Recorded
from resumable.utils import messages
from resumable.utils.rejected_state import rejected_state

_SHOWN = 20


class Adapter(Protocol):
    """One registered object, seen as a tree of plain values and tensors."""

    name: str
    target: Any
    kind: str  # module | optimizer | stateful | generator | container
    type: str  # "torch.optim.adamw.AdamW"

    def capture(self) -> Any:
        """The object's state with its live tensors: encode or copy it before training goes on."""

    def advice(self, value: Any) -> str:
        """What to do about a value in the tree that cannot be stored."""

    def key_of(self, path: tuple[str, ...]) -> str:
        """The name that the tensor at `path` of the tree has in the object's file."""

    def frozen(self) -> frozenset[str]:
        """The names of tensors that training says it does not change; not believed, but asked first."""

    def steady(self, keys: Iterable[str]) -> frozenset[str]:
        """Those of the names of its tensors that nothing but optimizers writes to."""

    def restore(self, tree: Any) -> None:
        """Bring the object in place to the state of `tree`; `RunMismatchError` names everything that does not fit."""

    def take(self, tree: Any) -> None:
        """As `restore`, of a tree that is handed over: its tensors may become the object's, or are so already."""

    def places(self) -> Mapping[str, Tensor] | None:
        """The object's live tensors by key, if `take` may be given these very tensors, filled with the stored values.

        None where other code than torch's own takes part in loading: it may do with the tensors what it likes.
        """

    def misfits(self, tensors: Mapping[str, Recorded]) -> list[str]:
        """What of the stored tensors can be seen not to fit before anything is read or changed."""

    def comparable(self, document: Any) -> Any:
        """The encoded tree without what may rightly differ after a restore, such as the order of parameters."""


class Plain:
    """What adapters share: their names, keys that are the joined path, and documents compared as they are."""

    kind = ""

    def __init__(self, name: str, target: Any) -> None:
        self.name = name
        self.target = target
        self.type = f"{type(target).__module__}.{type(target).__qualname__}"

    def advice(self, value: Any) -> str:
        return advice(value)

    def key_of(self, path: tuple[str, ...]) -> str:
        return ".".join(path)

    def frozen(self) -> frozenset[str]:
        return frozenset()

    def steady(self, keys: Iterable[str]) -> frozenset[str]:
        return frozenset()

    def restore(self, tree: Any) -> None:
        with taking(self.name):
            self._restore(tree, fresh)

    def take(self, tree: Any) -> None:
        with taking(self.name):
            self._restore(tree, moved)

    def places(self) -> Mapping[str, Tensor] | None:
        return None

    def _restore(self, tree: Any, own: Own) -> None:
        raise NotImplementedError

    def misfits(self, tensors: Mapping[str, Recorded]) -> list[str]:
        return []

    def comparable(self, document: Any) -> Any:
        return document

    def mismatch(self, reasons: Iterable[str]) -> RunMismatchError:
        return mismatch(self.name, reasons)


def mismatch(name: str, reasons: Iterable[str]) -> RunMismatchError:
    """One error that lists what about an object does not fit its checkpoint."""
    return RunMismatchError(
        f"{name} does not fit the checkpoint: {'; '.join(reasons)}",
        "build the object as it was when the checkpoint was written, or name another folder in `run` for a new run",
    )


def taking(name: str) -> AbstractContextManager[None]:
    """Turn whatever the block raises for the stored tree of another object into a mismatch."""
    return rejected_state(lambda reason: mismatch(name, [reason]), passing=torch.OutOfMemoryError)


def listed(what: str, names: Iterable[str]) -> list[str]:
    """Return `what: a, b, c and 4 more` as one entry, or no entry if there are no names."""
    names = list(names)
    return [f"{what}: {messages.listed(names, most=_SHOWN)}"] if names else []


def unwrapped(target: Any) -> Any:
    """The object inside torch's and Accelerate's own wrappers, told by their types and never by names of keys."""
    while True:
        inner = _inner(target)
        if inner is None:
            return target
        target = inner


def _inner(target: Any) -> Any:
    if isinstance(target, torch.nn.DataParallel | torch.nn.parallel.DistributedDataParallel):
        return target.module
    # Looked up, not imported: importing them takes seconds, and without them there can be no instance.
    if _is_instance(target, "torch._dynamo.eval_frame", "OptimizedModule"):
        return target._orig_mod
    if _is_instance(target, "accelerate.optimizer", "AcceleratedOptimizer"):
        return target.optimizer
    return None


def _is_instance(target: Any, module: str, name: str) -> bool:
    cls = getattr(sys.modules.get(module), name, None)
    return cls is not None and isinstance(target, cls)
