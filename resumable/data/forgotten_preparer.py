"""Warn where objects of Accelerate or Fabric take part in a training, and the object that prepared them does not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from resumable.data.find_objects import find_objects
from resumable.prepared import private
from resumable.prepared.preparers import LOSS, NAMES, library_of, passed_libraries
from resumable.utils.messages import listed


class ForgottenPreparer:
    """Warns once per library whose `Accelerator` or `Fabric` is not among the objects of a launch."""

    def __init__(self, objects: Mapping[str, object], warn: Callable[[str], None]) -> None:
        """Look at `objects`, whose states are in the checkpoints."""
        self._objects = objects
        self._warn = warn
        self._inside = _inside_window()  # then it is the window of another training in this program
        self._done = set(passed_libraries(objects.values()))
        for library in NAMES:
            names = [name for name, each in objects.items() if library_of(each) == library]
            if names:
                self._report(library, f"{library} prepared {listed(names, most=4)}")
        self._report_updates()

    def look_at_loaders(self, loaders: Iterable[object]) -> None:
        """Look at the loaders of a pass."""
        for loader in loaders:
            library = library_of(loader)
            if library is not None:
                self._report(library, f"{library} prepared the loader")

    def look(self) -> None:
        """Look at one boundary, which may be inside a window of Accelerate's; costs next to nothing."""
        if "Accelerate" in self._done:
            return
        before, self._inside = self._inside, _inside_window()
        if self._inside and not before:
            self._report("Accelerate", f"accelerator.accumulate() accumulates {_window()} batches")

    def _report(self, library: str, what: str) -> None:
        if library in self._done:
            return
        self._done.add(library)
        if library != "Accelerate" or not any(map(_stores_counter, self._objects.values())):
            self._warn(
                f"{what}, and no object given to Trainer(...) stores the {NAMES[library]}: {LOSS[library]}; add it: "
                f"Trainer(..., {NAMES[library].lower()}={NAMES[library].lower()})"
            )

    def _report_updates(self) -> None:
        """Report optimizers and schedulers that an `Accelerator` prepared, and that are not among the objects."""
        kinds = private.accelerator_types()
        passed = [each for each in self._objects.values() if isinstance(each, kinds)]
        others = [each for each in self._objects.values() if not isinstance(each, kinds)]
        others += [each for accelerator in passed for each in private.registered_objects(accelerator)]
        for update in (update for accelerator in passed for update in private.prepared_updates(accelerator)):
            found = (inside for each in others for inside in find_objects(each, type(update)))
            if not any(inside is update for inside in found):
                what = type(update).__name__
                self._warn(f"Accelerate prepared a {what} that was not given to Trainer(...): it is in no checkpoint")


def _window() -> int:
    """Return how many batches Accelerate accumulates in this program, 1 without it."""
    return int(private.gradient_state().get("plugin_kwargs", {}).get("num_steps", 1))


def _inside_window() -> bool:
    return private.gradient_state().get("sync_gradients") is False and _window() > 1


def _stores_counter(target: object) -> bool:
    """Return whether the object's state follows the counter of an `Accelerator` that it refers to, by changing it."""
    kinds = private.accelerator_types()
    state_dict = getattr(target, "state_dict", None)
    if not callable(state_dict) or library_of(target) is not None:
        return False
    return any(_follows(state_dict, accelerator) for kind in kinds for accelerator in find_objects(target, kind))


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
