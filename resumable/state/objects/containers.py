"""Dicts, lists and sets of the training loop, restored in place, so that names bound to their parts remain valid."""

from __future__ import annotations

import collections
import dataclasses
from typing import Any

import numpy as np
from torch import Tensor

from resumable.state.codec.tree import Array, Tree
from resumable.state.objects.adapter import BaseAdapter
from resumable.state.objects.stateful import is_stateful
from resumable.state.objects.tree_copies import Own, at, fresh
from resumable.state.tensors.facts import copy_bits
from resumable.state.tensors.number_lists import is_of_numbers

CONTAINER_TYPES = (dict, list, collections.OrderedDict, collections.Counter, set)

_MAPPINGS = (dict, collections.OrderedDict, collections.Counter)


class ContainerAdapter(BaseAdapter):
    """A dict, list or set of plain values and tensors."""

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
        _InPlaceFilling().fit(self.target, tree)


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


class _InPlaceFilling:
    """One restore of a container. A live part is filled at most once, and a saved part gets one live value."""

    def __init__(self) -> None:
        self._placed: dict[int, Any] = {}
        self._filled: dict[int, object] = {}  # live parts in use, kept alive so that no `id` is reused

    def fit(self, live: Any, saved: Any) -> Any:
        """Return `live` with the content of `saved` if the types allow it, otherwise a new value."""
        if type(live) is not type(saved):
            return self._new(saved, live)
        if isinstance(saved, Tensor):
            return self._tensor(live, saved)
        if type(saved) is np.ndarray:
            return self._array(live, saved)
        if type(saved) is tuple:
            return tuple(self.fit(at(live, index), value) for index, value in enumerate(saved))
        if type(saved) in (*_MAPPINGS, list, set):
            return self._container(live, saved)
        return saved

    def _container(self, live: Any, saved: Any) -> Any:
        if id(live) in self._filled:
            return self._new(saved, live)
        self._filled[id(live)] = live
        if type(saved) is list and is_of_numbers(saved):
            live[:] = saved
            return live
        if type(saved) is list:
            live[:] = [self.fit(at(live, index), value) for index, value in enumerate(saved)]
            return live
        content: object = saved
        if type(saved) is not set:
            # Cleared first, so that the order of the keys is restored too.
            content = {key: self.fit(live.get(key), value) for key, value in saved.items()}
        live.clear()
        live.update(content)
        return live

    def _tensor(self, live: Tensor, saved: Tensor) -> Any:
        if id(saved) in self._placed:
            return self._placed[id(saved)]
        fits = live.shape == saved.shape and live.dtype == saved.dtype and live.stride() == saved.stride()
        if not fits or live.grad_fn is not None or id(live) in self._filled:
            return self._new(saved, live)
        copy_bits(live, saved)
        live.requires_grad_(saved.requires_grad)
        return self._keep(saved, live)

    def _array(self, live: Array, saved: Array) -> object:
        fits = live.shape == saved.shape and live.dtype == saved.dtype and live.strides == saved.strides
        if not fits or not live.flags.writeable or id(live) in self._filled:
            return self._new(saved, live)
        np.copyto(live, saved)
        return self._keep(saved, live)

    def _new(self, saved: Any, live: object) -> object:
        if isinstance(saved, Tensor):
            placed = self._placed.get(id(saved))
            return placed if placed is not None else self._keep(saved, fresh(saved, live))
        if type(saved) in _MAPPINGS:
            return type(saved)({key: self._new(value, at(live, key)) for key, value in saved.items()})
        if type(saved) in (list, tuple):
            return type(saved)(self._new(value, at(live, index)) for index, value in enumerate(saved))
        return fresh(saved)

    def _keep(self, saved: object, placed: object) -> object:
        self._placed[id(saved)] = placed
        self._filled[id(placed)] = placed
        return placed
