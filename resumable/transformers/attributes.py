"""Find what a trainer keeps of a training in its own attributes: counters, partial sums, averages.

Subclasses keep them beside their arguments, and nothing marks them. So what is state shows by having changed since the
training began. Arguments stay those of the launch.
"""

from __future__ import annotations

import collections
import contextlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import torch

from resumable.drivers.state import SavedState, State
from resumable.errors import StateError
from resumable.state.codec import Encoded, encode
from resumable.state.objects.tree_copies import Own, fresh
from resumable.state.tensors.facts import facts_of, raw


class Attributes:
    """The attributes with values that a checkpoint can hold; `read` returns the attributes of now by name."""

    def __init__(self, target: object, read: Callable[[], Mapping[str, Any]]) -> None:
        self._target = target
        self._read = read
        self._initial: dict[str, tuple[Any, Encoded]] = {}

    def begin(self) -> None:
        """Note what all attributes are before anything is trained or restored."""
        for name, value in self._read().items():
            if _encoded(plainer := _plainer(value)) is not None:
                stored = fresh(plainer)
                self._initial[name] = stored, encode(stored, key_of=".".join, where=name)

    def changed(self) -> State:
        """Return those that are another value than at the begin, with live tensors."""
        return {name: _plainer(value) for name, value in self._read().items() if self._has_changed(name, value)}

    def restore(self, saved: SavedState, own: Own) -> None:
        """Set what `changed` returned, and all others to what they were at the begin."""
        for name, value in self._read().items():
            if name not in saved and name in self._initial and self._has_changed(name, value):
                setattr(self._target, name, _filled(value, fresh(self._initial[name][0], value)))
        for name, value in saved.items():
            live = getattr(self._target, name, None)
            setattr(self._target, name, _filled(live, own(value, live)))

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


def _filled(live: Any, saved: Any) -> Any:
    """Return the saved value, in the containers that are there."""
    if isinstance(live, dict) and isinstance(saved, dict):
        items = {key: _filled(live.get(key), value) for key, value in saved.items()}
        live.clear()
        live.update(items)
        return live
    if isinstance(live, list | collections.deque) and isinstance(saved, list):
        before = list(live)
        live.clear()
        live.extend(_filled(old, new) for old, new in zip(before, saved, strict=False))
        live.extend(saved[len(before) :])
        return live
    return saved
