"""Find what a trainer keeps of a training in its own attributes: counters, partial sums, averages.

Subclasses keep them beside their arguments, and nothing marks them. So what is state shows by having changed since the
training began. Arguments stay those of the launch.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch

from resumable.drivers.state import SavedState, State
from resumable.errors import StateError
from resumable.state.codec import Encoded, encode
from resumable.state.objects.tree_copies import Own, fresh
from resumable.state.tensors.facts import copy_bits, facts_of, raw


class Attributes:
    """The attributes with values that a checkpoint can hold; `read` returns the attributes of now by name."""

    def __init__(self, target: object, read: Callable[[], Mapping[str, Any]], *, device: torch.device) -> None:
        self.target = target
        self._read = read
        self._device = device
        self._initial: dict[str, tuple[Any, Encoded]] = {}

    def begin(self) -> None:
        """Note what all attributes are before anything is trained or restored; a later training keeps that."""
        if self._initial:
            return
        for name, value in self._read().items():
            if _encoded(plainer := _plainer(value)) is not None:
                stored = fresh(plainer, plainer)
                self._initial[name] = stored, encode(stored, key_of=".".join, where=name)

    def changed(self) -> State:
        """Return those that are another value than at the begin, with live tensors, and which are not on the device."""
        values = {name: _plainer(value) for name, value in self._read().items() if self._has_changed(name, value)}
        on_cpu = [path for path, tensor in _tensors(values, ()) if tensor.device.type != self._device.type]
        return {"values": values, "on_cpu": on_cpu}

    def restore(self, saved: SavedState, own: Own) -> None:
        """Set what `changed` returned, and all others to what they were at the begin."""
        filling = _Filling()
        values = own(saved["values"], _places(saved["values"], (), self._device, frozenset(saved["on_cpu"])))
        for name, value in self._read().items():
            if name not in values and name in self._initial and self._has_changed(name, value):
                initial = self._initial[name][0]
                setattr(self.target, name, filling.fit(value, fresh(initial, initial)))
        for name, value in values.items():
            setattr(self.target, name, filling.fit(getattr(self.target, name, None), value))

    def _has_changed(self, name: str, value: object) -> bool:
        encoded = _encoded(_plainer(value)) if name in self._initial else _encoded(value)
        if encoded is None:
            return False
        return name not in self._initial or not _is_same(encoded, self._initial[name][1])


def _encoded(value: object) -> Encoded | None:
    with contextlib.suppress(StateError):
        return encode(value, key_of=".".join, where="")
    return None


def _is_same(one: Encoded, other: Encoded) -> bool:
    if json.dumps(one.document) != json.dumps(other.document) or one.tensors.keys() != other.tensors.keys():
        return False
    return all(_has_same_bits(tensor, other.tensors[key]) for key, tensor in one.tensors.items())


def _has_same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    return facts_of(one) == facts_of(other) and torch.equal(raw(one), raw(other))


def _plainer(value: Any) -> Any:
    """Return the value with plain containers in place of those that a checkpoint cannot hold."""
    if type(value) in (dict, collections.defaultdict):
        return {key: _plainer(item) for key, item in value.items()}
    if type(value) in (list, collections.deque):
        return [_plainer(item) for item in value]
    return value


def _tensors(tree: Any, path: tuple[str, ...]) -> Iterator[tuple[str, torch.Tensor]]:
    """Return each tensor in a tree with its path."""
    if isinstance(tree, torch.Tensor):
        yield ".".join(path), tree
    for key, item in _items(tree):
        yield from _tensors(item, (*path, str(key)))


def _places(tree: Any, path: tuple[str, ...], device: torch.device, on_cpu: frozenset[str]) -> Any:
    """Return a tree with an empty tensor on its device for each tensor."""
    if isinstance(tree, torch.Tensor):
        return torch.empty(0, device="cpu" if ".".join(path) in on_cpu else device)
    placed = {key: _places(item, (*path, str(key)), device, on_cpu) for key, item in _items(tree)}
    return list(placed.values()) if isinstance(tree, list | tuple) else placed


def _items(tree: Any) -> Iterable[tuple[object, Any]]:
    if isinstance(tree, dict):
        return tree.items()
    return enumerate(tree) if isinstance(tree, list | tuple) else ()


class _Filling:
    """One restore. What is there is filled in place, for others may hold it, but only once."""

    def __init__(self) -> None:
        # By `id`, and kept alive so that none is used again.
        self._filled: dict[int, object] = {}
        self._placed: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # saved and placed: attributes may share one

    def fit(self, live: Any, saved: Any) -> Any:
        """Return what is there with the saved content if it can hold that, otherwise the saved value."""
        if isinstance(saved, torch.Tensor):
            if id(saved) not in self._placed:
                self._placed[id(saved)] = saved, self._tensor(live, saved)
            return self._placed[id(saved)][1]
        if id(live) in self._filled:
            return saved
        if isinstance(live, dict) and isinstance(saved, dict):
            self._filled[id(live)] = live
            items = {key: self.fit(live.get(key), value) for key, value in saved.items()}
            live.clear()
            live.update(items)
            return live
        if isinstance(live, list | collections.deque) and isinstance(saved, list):
            self._filled[id(live)] = live
            filled = [self.fit(old, new) for old, new in itertools.zip_longest(list(live)[: len(saved)], saved)]
            live.clear()
            live.extend(filled)
            return live
        return saved

    def _tensor(self, live: Any, saved: torch.Tensor) -> torch.Tensor:
        if not isinstance(live, torch.Tensor) or live.grad_fn is not None or id(live) in self._filled:
            return saved
        if facts_of(live) != facts_of(saved) or live.device != saved.device:
            return saved
        self._filled[id(live)] = live
        copy_bits(live, saved)
        return live
