"""Check gradient accumulation by Accelerate, whose counter is in its `Accelerator`. Does not import Accelerate."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from resumable.data.find_objects import find_objects


def window() -> int:
    """Return how many batches Accelerate accumulates in this program, 1 without it."""
    return int(_plugin().get("num_steps", 1))


def ends_with_the_loader() -> bool:
    """Return whether the last batch of a prepared loader ends a window of several batches."""
    return window() > 1 and bool(_plugin().get("sync_with_dataloader", True))


class AccumulationCheck:
    """Warns once at a boundary inside a window whose counter is in no checkpoint."""

    def __init__(self, objects: Mapping[str, object], warn: Callable[[str], None]) -> None:
        """Remember `objects`, whose states are in the checkpoints."""
        self._objects = objects
        self._warn = warn
        self._inside = _inside_window()  # then it is the window of another training in this program
        self._done = False

    def look(self) -> None:
        """Check one boundary; costs next to nothing."""
        if self._done:
            return
        before, self._inside = self._inside, _inside_window()
        if not self._inside or before:
            return
        self._done = True
        if not any(map(_stores_counter, self._objects.values())):
            self._warn(
                f"accelerator.accumulate() finds windows of {window()} batches by accelerator.step, which no object "
                "given to Trainer(...) stores: after a resume inside a window all later ones are shifted; pass an "
                "object whose state_dict returns accelerator.step and accelerator.sync_gradients, and whose "
                "load_state_dict sets both"
            )


def _state() -> Mapping[str, Any]:
    kind = getattr(sys.modules.get("accelerate.state"), "GradientState", None)
    return getattr(kind, "_shared_state", {})


def _plugin() -> Mapping[str, Any]:
    plugin: Mapping[str, Any] = _state().get("plugin_kwargs", {})
    return plugin


def _inside_window() -> bool:
    return _state().get("sync_gradients") is False and window() > 1


def _stores_counter(target: object) -> bool:
    """Return whether the object's state follows the counter of an `Accelerator` that it refers to, by changing it."""
    kind = getattr(sys.modules.get("accelerate.accelerator"), "Accelerator", None)
    state_dict = getattr(target, "state_dict", None)
    if kind is None or not callable(state_dict):
        return False
    return any(_follows(state_dict, accelerator) for accelerator in find_objects(target, kind))


def _follows(state_dict: Callable[[], object], accelerator: Any) -> bool:
    before = accelerator.step
    numbers = list(_numbers(state_dict()))
    accelerator.step = before + 1
    try:
        return list(_numbers(state_dict())) != numbers
    finally:
        accelerator.step = before


def _numbers(tree: object) -> Iterator[int]:
    if isinstance(tree, int):
        yield tree
    elif isinstance(tree, Mapping):
        yield from (number for value in tree.values() for number in _numbers(value))
    elif isinstance(tree, list | tuple):
        yield from (number for value in tree for number in _numbers(value))
