"""The loop's own dicts and lists: filled in place, so that every name bound to one of their parts still sees it."""

from __future__ import annotations

import collections
import dataclasses
from typing import Any

import numpy as np
from torch import Tensor

from resumable.state.objects.adapter import Plain
from resumable.state.objects.generators import GENERATOR_TYPES
from resumable.state.objects.tree_copies import Own, at, fresh
from resumable.state.tensors.facts import fill

CONTAINER_TYPES = (dict, list, collections.OrderedDict, collections.Counter, set)

_MAPPINGS = (dict, collections.OrderedDict, collections.Counter)


class ContainerAdapter(Plain):
    """A dict, list or set of plain values and tensors."""

    kind = "container"

    def capture(self) -> Any:
        return self.target

    def advice(self, value: Any) -> str:
        return advice_for_parts(value) or super().advice(value)

    def _restore(self, tree: Any, own: Own) -> None:
        if type(tree) is not type(self.target):
            raise self.mismatch(
                [f"the checkpoint holds a {type(tree).__name__}, here is a {type(self.target).__name__}"]
            )
        _Filling().fit(self.target, tree)


def advice_for_parts(value: Any) -> str | None:
    """What to do about a part that a container cannot hold alive: a copy of it would not follow it."""
    if has_state(value):
        return f"pass it by a name of its own: Trainer(..., {type(value).__name__.lower()}=...)"
    if isinstance(value, dict | collections.UserDict):
        return "let the loop itself use a plain dict in its place: what is copied out of it here would not follow it"
    if isinstance(value, list | collections.deque | collections.UserList):
        return "let the loop itself use a plain list in its place: what is copied out of it here would not follow it"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return "let the loop itself use a plain dict in its place: what is copied out of it here would not follow it"
    return None


def has_state(value: Any) -> bool:
    """Whether it can be passed to a Trainer by a name of its own, because it has a state."""
    if isinstance(value, type):
        return False
    methods = (getattr(value, method, None) for method in ("state_dict", "load_state_dict"))
    return isinstance(value, GENERATOR_TYPES) or all(map(callable, methods))


class _Filling:
    def __init__(self) -> None:
        self._placed: dict[int, Any] = {}
        self._taken: dict[int, Any] = {}  # live parts in use, held so that no `id` comes twice

    def fit(self, live: Any, saved: Any) -> Any:
        """What now stands for `saved`: `live` itself with new content where the types allow it, else something new."""
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
        if id(live) in self._taken:
            return self._new(saved, live)
        self._taken[id(live)] = live
        if type(saved) is list:
            live[:] = [self.fit(at(live, index), value) for index, value in enumerate(saved)]
            return live
        content: Any = saved
        if type(saved) is not set:
            # Cleared first, so that the keys come back in their order too.
            content = {key: self.fit(live.get(key), value) for key, value in saved.items()}
        live.clear()
        live.update(content)
        return live

    def _tensor(self, live: Tensor, saved: Tensor) -> Tensor:
        if id(saved) in self._placed:
            return self._placed[id(saved)]  # type: ignore[no-any-return]
        fits = live.shape == saved.shape and live.dtype == saved.dtype and live.stride() == saved.stride()
        if not fits or live.grad_fn is not None or id(live) in self._taken:
            return self._new(saved, live)  # type: ignore[no-any-return]
        fill(live, saved)
        live.requires_grad_(saved.requires_grad)
        return self._keep(saved, live)  # type: ignore[no-any-return]

    def _array(self, live: np.ndarray[Any, Any], saved: np.ndarray[Any, Any]) -> Any:
        fits = live.shape == saved.shape and live.dtype == saved.dtype and live.strides == saved.strides
        if not fits or not live.flags.writeable or id(live) in self._taken:
            return self._new(saved, live)
        np.copyto(live, saved)
        return self._keep(saved, live)

    def _new(self, saved: Any, live: Any) -> Any:
        if isinstance(saved, Tensor):
            known = self._placed.get(id(saved))
            return known if known is not None else self._keep(saved, fresh(saved, live))
        if type(saved) in _MAPPINGS:
            return type(saved)({key: self._new(value, at(live, key)) for key, value in saved.items()})
        if type(saved) in (list, tuple):
            return type(saved)(self._new(value, at(live, index)) for index, value in enumerate(saved))
        return fresh(saved)

    def _keep(self, saved: Any, placed: Any) -> Any:
        self._placed[id(saved)] = placed
        self._taken[id(placed)] = placed
        return placed
