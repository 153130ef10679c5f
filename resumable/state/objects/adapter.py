"""The interface of an adapter, which captures and restores one kind of object; and how objects leave their wrappers."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor

from resumable.errors import RunMismatchError
from resumable.state.codec.advice import advice
from resumable.state.codec.tree import Document, Tree
from resumable.state.objects.tree_copies import Own, fresh, moved
from resumable.state.tensors.facts import Recorded
from resumable.utils import messages
from resumable.utils.rejected_state import rejected_state

_SHOWN = 20


class Adapter(Protocol):
    """One registered object, as a tree of plain values and tensors."""

    name: str
    target: Any
    kind: str  # module | optimizer | stateful | generator | container
    type: str  # "torch.optim.adamw.AdamW"
    joins: str | None  # what is lost where a run that was begun without the object goes on; None where it is refused

    def capture(self) -> Tree:
        """Return the object's state with its live tensors; encode or copy it before training continues."""

    def advice(self, value: object) -> str:
        """Return the hint for a value in the tree that cannot be stored."""

    def key_of(self, path: tuple[str, ...]) -> str:
        """Return the key in the object's file of the tensor at `path`."""

    def frozen(self, tree: Tree) -> frozenset[str]:
        """Return the keys of tensors in a captured tree with `requires_grad=False`.

        A hint only: their digests are compared first.
        """

    def optimizer_written(self, keys: Iterable[str]) -> frozenset[str]:
        """Return those of the tensor keys to which only optimizers write."""

    def restore(self, tree: Tree) -> None:
        """Restore the object in place from `tree`; `RunMismatchError` lists everything that does not match."""

    def adopt(self, tree: Tree) -> None:
        """Restore like `restore`, from a tree whose tensors the object may keep, or already holds."""

    def read_targets(self) -> Mapping[str, Tensor] | None:
        """Return the live tensors by key, if `adopt` accepts these very tensors filled with the stored values.

        None if code other than torch's own takes part in loading: it may do with the tensors what it likes.
        """

    def misfits(self, tensors: Mapping[str, Recorded], document: Any) -> list[str]:
        """Return the mismatches with what is stored that are visible before anything is read or changed.

        `tensors` are the records of the object's tensors, `document` is its encoded tree.
        """

    def comparable(self, document: Any) -> Document:
        """Return the encoded tree without what may differ after a restore, such as the order of parameters."""


class BaseAdapter:
    """What adapters share: names, keys that are the joined path, and documents compared unchanged."""

    kind = ""
    joins: str | None = None

    def __init__(self, name: str, target: Any) -> None:
        self.name = name
        self.target = target
        self.type = f"{type(target).__module__}.{type(target).__qualname__}"

    def advice(self, value: object) -> str:
        return advice(value)

    def key_of(self, path: tuple[str, ...]) -> str:
        return ".".join(path)

    def frozen(self, tree: Tree) -> frozenset[str]:
        return frozenset()

    def optimizer_written(self, keys: Iterable[str]) -> frozenset[str]:
        return frozenset()

    def restore(self, tree: Tree) -> None:
        with mismatch_on_error(self.name):
            self._restore(tree, fresh)

    def adopt(self, tree: Tree) -> None:
        with mismatch_on_error(self.name):
            self._restore(tree, moved)

    def read_targets(self) -> Mapping[str, Tensor] | None:
        return None

    def _restore(self, tree: Any, own: Own) -> None:
        raise NotImplementedError

    def misfits(self, tensors: Mapping[str, Recorded], document: Any) -> list[str]:
        return []

    def comparable(self, document: Any) -> Document:
        compared: Document = document
        return compared

    def mismatch(self, reasons: Iterable[str]) -> RunMismatchError:
        return mismatch(self.name, reasons)


def mismatch(name: str, reasons: Iterable[str]) -> RunMismatchError:
    """Build the error that lists how an object differs from its checkpoint."""
    return RunMismatchError(
        f"{name} does not fit the checkpoint: {'; '.join(reasons)}",
        "build the object as it was when the checkpoint was written, or name another folder in `run` for a new run",
    )


def mismatch_on_error(name: str) -> AbstractContextManager[None]:
    """Convert exceptions of code that receives a stored tree into a `RunMismatchError`.

    A checkpoint is untrusted, so a decoded tree may have a shape that this object never produced.
    """
    return rejected_state(lambda reason: mismatch(name, [reason]), passing=torch.OutOfMemoryError)


def listed(what: str, names: Iterable[str]) -> list[str]:
    """Return `what: a, b, c and 4 more` as the only entry; an empty list if there are no names."""
    names = list(names)
    return [f"{what}: {messages.listed(names, most=_SHOWN)}"] if names else []


def unwrapped(target: Any) -> Any:
    """Return the object inside torch's and Accelerate's wrappers, which are recognized by type, never by key names."""
    while True:
        inner = _inner(target)
        if inner is None:
            return target
        target = inner


def _inner(target: Any) -> object:
    if isinstance(target, torch.nn.DataParallel | torch.nn.parallel.DistributedDataParallel):
        return target.module
    # Looked up, not imported: importing them takes seconds, and without them there can be no instance.
    if _is_instance(target, "torch._dynamo.eval_frame", "OptimizedModule"):
        return target._orig_mod
    if _is_instance(target, "accelerate.optimizer", "AcceleratedOptimizer"):
        return target.optimizer
    return None


def _is_instance(target: object, module: str, name: str) -> bool:
    cls = getattr(sys.modules.get(module), name, None)
    return cls is not None and isinstance(target, cls)
