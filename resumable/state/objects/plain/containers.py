"""Containers of the training loop, restored in place, so that names bound to their parts remain valid."""

from __future__ import annotations

import collections
import dataclasses
from typing import Any

from resumable.state.codec.tree import Tree
from resumable.state.objects.adapter import BaseAdapter
from resumable.state.objects.plain.in_place import FILLED, InPlaceFilling
from resumable.state.objects.stateful import is_stateful
from resumable.state.objects.tree_copies import Own

CONTAINER_TYPES = FILLED


class ContainerAdapter(BaseAdapter):
    """A dict, list, deque or set of plain values and tensors."""

    kind = "container"

    def capture(self) -> Tree:
        container: Tree = self.target
        return container

    def advice(self, value: object) -> str:
        return advice_for_parts(value) or super().advice(value)

    def _restore(self, tree: object, own: Own) -> None:
        if type(tree) is not type(self.target):
            raise self.mismatch(
                [f"the checkpoint holds a {type(tree).__name__}, here is a {type(self.target).__name__}"]
            )
        if InPlaceFilling().fit(self.target, tree) is not self.target:
            raise self.mismatch([f"the checkpoint holds {_shown(tree)}, here is {_shown(self.target)}"])


def _shown(container: Any) -> str:
    """Return the type of a container, with what cannot be changed in place."""
    kind = type(container).__name__
    return f"a {kind} of maxlen {container.maxlen}" if kind == "deque" else f"a {kind}"


def advice_for_parts(value: object) -> str | None:
    """Return the hint for a part that a container cannot hold, because a copy of it would not follow it."""
    if is_stateful(value):
        return f"pass it under its own name: Trainer(..., {type(value).__name__.lower()}=...)"
    if isinstance(value, dict | collections.UserDict):
        return "use a plain dict in the loop itself: a copy made here would not follow the original"
    if isinstance(value, list | collections.deque | collections.UserList):
        return "use a plain list in the loop itself: a copy made here would not follow the original"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return "use a plain dict in the loop itself: a copy made here would not follow the original"
    return None
