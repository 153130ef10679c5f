"""Adapters of containers and attributes, which are filled in place: names bound to their parts remain valid."""

from __future__ import annotations

import collections
import sys
from typing import Any

from resumable.state.codec.tree import Tree
from resumable.state.objects.adapter import BaseAdapter, listed
from resumable.state.objects.plain.attributes import Attributes
from resumable.state.objects.plain.in_place import InPlaceFilling
from resumable.state.objects.plain.parts import Given
from resumable.state.objects.stateful import is_stateful
from resumable.state.objects.tree_copies import Own


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
        if _is_plain_object(value):
            name = type(value).__name__.lower()
            return (
                f"pass it as well: Trainer(..., {name}=attributes(...)), or leave it out: "
                "attributes(..., without=['name'])"
            )
        return advice_for_parts(value) or super().advice(value)

    def _restore(self, tree: dict[str, Any], own: Own) -> None:
        saved, wrapper = tree["values"], self._wrapper
        self._refuse_other_names(saved, {*tree["left_alone"]}, {*tree["begun_with"]})
        live, filling = wrapper.values(), InPlaceFilling(self._given.placed)
        for name in live.keys() - saved.keys():
            wrapper.delete(name)
        for name, value in saved.items():
            wrapper.set(name, filling.fit(live.get(name), value))
        wrapper.begun_with = list(tree["begun_with"])

    def _refuse_other_names(self, saved: dict[str, Any], left_alone: set[str], begun_with: set[str]) -> None:
        """Refuse an object that was built with other attributes; those that training added or removed may differ."""
        code = {*self._wrapper.left_alone()}
        here = code | self._wrapper.values().keys()
        reasons = [
            *listed("attributes that the checkpoint lacks", sorted(here - begun_with - saved.keys() - left_alone)),
            *listed("attributes that are not here", sorted((begun_with & saved.keys()) - here)),
            *listed("attributes that held code, a logger or a file", sorted(left_alone - code)),
        ]
        if reasons:
            raise self.mismatch(reasons)


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
    if _is_plain_object(value):
        return f"pass it under its own name: Trainer(..., {type(value).__name__.lower()}=attributes(...))"
    return None


def _is_plain_object(value: object) -> bool:
    """Return whether a value is of a class of the program, whose attributes may be its state."""
    package = type(value).__module__.partition(".")[0]
    foreign = package in sys.stdlib_module_names or package in ("torch", "numpy")
    return not (isinstance(value, type) or callable(value) or (foreign and package != "__main__"))


def _shown(container: object) -> str:
    """Return the type of a container, with what cannot be changed in place."""
    kind = type(container).__name__
    if isinstance(container, collections.deque):
        return f"a {kind} of maxlen {container.maxlen}"
    return f"a {kind} of other values" if isinstance(container, tuple) else f"a {kind}"
