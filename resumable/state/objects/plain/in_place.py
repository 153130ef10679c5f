"""Fill live containers, tensors and arrays with a stored tree, in place. Independent of adapters."""

from __future__ import annotations

import collections
import struct
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from torch import Tensor

from resumable.state.codec.named_tuples import LivingTypes
from resumable.state.codec.tree import Array, NamedValues, PartName
from resumable.state.objects.tree_copies import at, fresh
from resumable.state.tensors.facts import copy_bits, facts_of
from resumable.state.tensors.number_lists import is_of_numbers

MAPPINGS = (dict, collections.OrderedDict, collections.Counter, collections.defaultdict)
SEQUENCES = (list, collections.deque)
FILLED = (*MAPPINGS, *SEQUENCES, set)
"""The types of containers that are filled in place, each exactly."""


def _no_object(name: str, live: object) -> object:
    raise ValueError(f"the checkpoint names an object {name!r} in the place of a value")


class InPlaceFilling:
    """One restore of a container. A live part is filled at most once, and a saved part gets one live value.

    `placed` returns the object of a name that stands in the tree, to be put where a live value is.
    """

    def __init__(self, placed: Callable[[str, object], object] = _no_object) -> None:
        self._object = placed
        self._living = LivingTypes()
        self._placed: dict[object, Any] = {}
        self._filled: dict[int, tuple[object, Any]] = {}  # live and saved, kept alive so that no `id` is reused

    def fit(self, live: Any, saved: Any) -> Any:
        """Return `live` with the content of `saved` if the types allow it, otherwise a new value."""
        if type(saved) in (tuple, NamedValues):
            return self._fixed(live, saved)
        if type(live) is not type(saved):
            return self._new(saved, live)
        if isinstance(saved, Tensor):
            return self._tensor(live, saved)
        if type(saved) is np.ndarray:
            return self._array(live, saved)
        if type(saved) in FILLED:
            return self._container(live, saved)
        return self._new(saved, live)

    def _fixed(self, live: Any, saved: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return `live` itself where its items are the ones to put there; no tuple can be filled."""
        items = [self.fit(at(live, index), value) for index, value in enumerate(saved)]
        made = self._living.restored(saved, items, live) if type(saved) is NamedValues else tuple(items)
        same = type(live) is type(made) and len(live) == len(made) and all(map(_is_placed, live, made))
        kept: tuple[Any, ...] = live if same else made
        return kept

    def _container(self, live: Any, saved: Any) -> Any:
        if id(live) in self._filled:  # under a second name, which it keeps if both have the same content
            return live if _is_alike(self._filled[id(live)][1], saved) else self._new(saved, live)
        if type(saved) is collections.deque and live.maxlen != saved.maxlen:
            return self._new(saved, live)
        self._filled[id(live)] = live, saved
        content = saved if type(saved) is list and is_of_numbers(saved) else self._rebuilt(saved, live, self.fit)
        if type(saved) is list:
            live[:] = content
            return live
        # Cleared first, so that the order of the keys is restored too.
        live.clear()
        live.extend(content) if type(saved) is collections.deque else live.update(content)
        if type(saved) is collections.defaultdict:
            live.default_factory = saved.default_factory
        return live

    def _tensor(self, live: Tensor, saved: Tensor) -> Any:
        if id(saved) in self._placed:
            return self._placed[id(saved)]
        fits = facts_of(live) == facts_of(saved) and live.grad_fn is None and not is_expanded(live)
        if not fits or id(live) in self._filled:
            return self._new(saved, live)
        copy_bits(live, saved)
        live.requires_grad_(saved.requires_grad)
        return self._keep(id(saved), saved, live)

    def _array(self, live: Array, saved: Array) -> object:
        if _place(saved) in self._placed:
            return self._placed[_place(saved)]
        if id(live) in self._filled and _is_alike(self._filled[id(live)][1], saved):
            return live
        fits = live.shape == saved.shape and live.dtype == saved.dtype and _may_hold(live, saved)
        if not fits or not live.flags.writeable or id(live) in self._filled:
            return self._new(saved, live)
        np.copyto(live, saved)
        return self._keep(_place(saved), saved, live)

    def _new(self, saved: Any, live: object) -> Any:
        if type(saved) is PartName:
            return self._object(saved.name, live)
        place = id(saved) if isinstance(saved, Tensor) else _place(saved) if type(saved) is np.ndarray else None
        if place is not None:
            return self._placed[place] if place in self._placed else self._keep(place, saved, fresh(saved, live))
        if type(saved) in FILLED:
            return self._rebuilt(saved, live, self._from_new)
        if type(saved) in (tuple, NamedValues):
            items = [self._new(value, at(live, index)) for index, value in enumerate(saved)]
            return self._living.restored(saved, items, live) if type(saved) is NamedValues else tuple(items)
        return fresh(saved)

    def _from_new(self, live: object, saved: Any) -> Any:
        return self._new(saved, live)

    def _rebuilt(self, saved: Any, live: object, child: Callable[[Any, Any], Any]) -> Any:
        """Return a new container like `saved`, with `child` of each live and saved item."""
        if type(saved) is set:
            return fresh(saved)
        if type(saved) in MAPPINGS:
            pairs = {self._living.restored_key(key): child(at(live, key), value) for key, value in saved.items()}
            factory = [saved.default_factory] if type(saved) is collections.defaultdict else []
            return type(saved)(*factory, pairs)
        items = [child(at(live, index), value) for index, value in enumerate(saved)]
        return items if type(saved) is list else collections.deque(items, saved.maxlen)

    def _keep(self, place: object, saved: object, placed: object) -> object:
        self._placed[place] = placed
        self._filled[id(placed)] = placed, saved
        return placed


def is_expanded(tensor: Tensor) -> bool:
    """Return whether several elements of a tensor are one in memory, so that it cannot be filled."""
    return any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True))


def _may_hold(live: Array, saved: Array) -> bool:
    """Return whether a live array keeps the layout of a stored one; views with gaps are stored without them."""
    return live.strides == saved.strides or not (live.flags.c_contiguous or live.flags.f_contiguous)


def _place(array: Array) -> object:
    """Return what two arrays have in common that are one: those of one stored tensor share its memory."""
    address = array.__array_interface__["data"][0]
    return ("array", address, array.shape, array.strides, array.dtype.str) if array.size else id(array)


def _is_placed(live: object, made: object) -> bool:
    """Return whether an item of a live tuple may stay: it is the one to put there, or a plain value equal to it."""
    return live is made or (not isinstance(made, (Tensor, np.ndarray, tuple, *FILLED)) and _is_alike(live, made))


def _is_alike(one: Any, other: Any) -> bool:
    """Return whether two stored values are the same in type and bits."""
    if one is other or type(one) is not type(other):
        return one is other
    if isinstance(one, Tensor):
        return False  # one tensor under two names is one object in a stored tree
    if isinstance(one, np.ndarray):
        return bool(one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes())
    if isinstance(one, float):
        return struct.pack("d", one) == struct.pack("d", other)
    if isinstance(one, dict):
        return len(one) == len(other) and _are_alike(one, other) and _are_alike(one.values(), other.values())
    if isinstance(one, list | tuple | collections.deque):
        return len(one) == len(other) and _are_alike(one, other)
    return bool(one == other)


def _are_alike(some: Iterable[Any], others: Iterable[Any]) -> bool:
    return all(map(_is_alike, some, others))
