"""Adapters of containers and attributes, which are filled in place: names bound to their parts remain valid."""

from __future__ import annotations

import collections
from collections.abc import Mapping
from typing import Any

from resumable.state.codec.document_paths import named_children
from resumable.state.codec.tree import Tree
from resumable.state.objects.adapter import BaseAdapter, listed, mismatch_on_error
from resumable.state.objects.plain.attributes import Attributes, is_frozen, is_plain
from resumable.state.objects.plain.in_place import InPlaceFilling
from resumable.state.objects.plain.parts import Given
from resumable.state.objects.stateful import is_stateful
from resumable.state.objects.tree_copies import Own
from resumable.state.tensors.facts import Recorded


class ContainerAdapter(BaseAdapter):
    """A dict, list, deque, set or tuple of plain values, tensors, and objects with a state of their own."""

    kind = "container"

    def __init__(self, name: str, target: Any, given: Given) -> None:
        super().__init__(name, target)
        self._given = given
        self._holds_objects = given.named(target) is not target

    def capture(self) -> Tree:
        container: Tree = self._given.named(self.target) if self._holds_objects else self.target
        return container

    def advice(self, value: object) -> str:
        return advice_for_parts(value) or super().advice(value)

    def misfits(self, tensors: Mapping[str, Recorded], document: Any) -> list[str]:
        stored = document.get("$deque") if isinstance(document, dict) else None
        if not isinstance(stored, dict) or not isinstance(self.target, collections.deque):
            return []
        then, now = stored.get("maxlen"), self.target.maxlen
        return [] if then == now else [f"the checkpoint holds a deque of maxlen {then}, here is one of maxlen {now}"]

    def _restore(self, tree: object, own: Own) -> None:
        if InPlaceFilling(self._given.placed).fit(self.target, tree) is not self.target:
            raise self.mismatch([f"the checkpoint holds {_shown(tree)}, here is {_shown(self.target)}"])


class AttributesAdapter(BaseAdapter):
    """A plain object by its attributes."""

    kind = "attributes"

    def __init__(self, name: str, wrapper: Attributes, given: Given) -> None:
        super().__init__(name, wrapper.target)
        self._wrapper = wrapper
        self._given = given

    def capture(self) -> dict[str, Tree]:
        left_alone: Any = self._wrapper.left_alone()
        begun_with: Any = self._wrapper.begun_with
        return {
            "values": self._given.named(self._wrapper.values()),
            "left_alone": left_alone,
            "begun_with": begun_with,
        }

    def advice(self, value: object) -> str:
        hint = advice_for_parts(value) or super().advice(value)
        return f"{hint}; or leave the attribute out: attributes(..., without=[...])"

    def misfits(self, tensors: Mapping[str, Recorded], document: Any) -> list[str]:
        with mismatch_on_error(self.name):
            saved = {name for name, _ in named_children(document["values"])}
            return self._other_names(saved, {*document["left_alone"]}, {*document["begun_with"]})

    def _restore(self, tree: dict[str, Any], own: Own) -> None:
        saved, wrapper = tree["values"], self._wrapper
        reasons = self._other_names({*saved}, {*tree["left_alone"]}, {*tree["begun_with"]})
        if reasons:
            raise self.mismatch(reasons)
        live, filling = wrapper.values(), InPlaceFilling(self._given.placed)
        for name in live.keys() - saved.keys():
            wrapper.delete(name)
        for name, value in saved.items():
            wrapper.set(name, filling.fit(live.get(name), value))
        wrapper.begun_with = list(tree["begun_with"])

    def _other_names(self, saved: set[str], left_alone: set[str], begun_with: set[str]) -> list[str]:
        """Return which other attributes the object was built with; those that training added or removed may differ."""
        code = {*self._wrapper.left_alone()}
        here = code | self._wrapper.values().keys()
        return [
            *listed("attributes that the checkpoint lacks", sorted(here - begun_with - saved - left_alone)),
            *listed("attributes that are not here", sorted((begun_with & saved) - here)),
            *listed("attributes that held code, a logger or a file", sorted(left_alone - code)),
        ]


def advice_for_parts(value: object) -> str | None:
    """Return the hint for a part that a container cannot hold, because a copy of it would not follow it."""
    if is_stateful(value):
        return (
            "it was not there when the Trainer was made, or stands in a set: make it before, and keep it in a list, a "
            f"dict, or under its own name: Trainer(..., {type(value).__name__.lower()}=...)"
        )
    if isinstance(value, dict | collections.UserDict):
        return "use a plain dict in the loop itself: a copy made here would not follow the original"
    if isinstance(value, list | collections.deque | collections.UserList):
        return "use a plain list in the loop itself: a copy made here would not follow the original"
    if is_plain(value) and not is_frozen(value):
        return f"pass it under a name of its own: Trainer(..., {type(value).__name__.lower()}=attributes(...))"
    return None


def _shown(container: object) -> str:
    """Return the type of a container, with what cannot be changed in place."""
    kind = type(container).__name__
    if isinstance(container, collections.deque):
        return f"a {kind} of maxlen {container.maxlen}"
    return f"a {kind} of other values" if isinstance(container, tuple) else f"a {kind}"
