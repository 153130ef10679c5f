"""The variables that `carry` names: their names and places, captured and put back at the instants of all objects."""

from __future__ import annotations

import sys
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

from resumable.checkpointing.checkpointer import Checkpointer
from resumable.checkpointing.mismatch.adoption import Adoption, refuse_unknown, report_adopted, report_dropped
from resumable.checkpointing.mismatch.carried_state import CarriedNames
from resumable.config.config import Config
from resumable.loop.carried import carry_errors
from resumable.loop.carried.carried_values import devices_of, placed, refuse_value, storable
from resumable.loop.carried.variable_place import InFunction, Place, place_of
from resumable.run.reserved_objects import CARRIED
from resumable.state.codec.tree import Tree
from resumable.state.objects.adapter import mismatch_on_error
from resumable.utils.events import warn


@dataclass(frozen=True)
class _Carried:
    """A variable that is carried. `inner` ones were named by a function that the outermost loop calls."""

    place: Place
    inner: bool


class CarriedVariables:
    """The carried variables of one program. They belong to the thread that creates this.

    Args:
        run: The location of the run, for messages.
        stored: The names in the checkpoint that the program resumes from; None for a new run.
        adoption: The names in which program and checkpoint may differ.
        targets: The objects that were passed, by name.
        objects: The names of these, and of the objects in the checkpoint.
    """

    def __init__(
        self,
        run: str,
        stored: CarriedNames | None,
        adoption: Adoption,
        *,
        targets: Mapping[str, object],
        objects: Collection[str],
    ) -> None:
        self._run, self._stored, self._adoption = run, stored, adoption
        self._targets, self._objects = targets, objects
        self._stood = False  # at a boundary
        self._thread = threading.get_ident()
        self._carried: dict[str, _Carried] = {}
        self._drivers: frozenset[tuple[int, CodeType]] = frozenset()  # the frames around the outermost loop, by id
        self._unseen: set[str] = set()  # were not looked at since they were named
        self._unchecked: set[str] = set()  # had no value at a boundary since
        self._restored: set[str] = set()
        self._reported: set[str] = set()

    @classmethod
    def of(cls, config: Config, checkpointer: Checkpointer) -> CarriedVariables:
        """Return the variables of a program that goes on from this checkpointer's checkpoint; none is named yet."""
        adoption = Adoption(config.adopt, config.drop)
        targets, objects = checkpointer.targets, checkpointer.names
        return cls(config.location, checkpointer.carried_names, adoption, targets=targets, objects=objects)

    @property
    def names(self) -> frozenset[str]:
        """Return the names of all variables that are carried."""
        return frozenset(self._carried)

    def stand_on(self, stored: CarriedNames | None) -> None:
        """Resume from a checkpoint with these names: another launch may have saved since the run was found."""
        self._stored = stored

    # -- naming -------------------------------------------------------------------------------------------------------

    def add(self, names: Collection[object], frame: FrameType, *, inside: bool) -> None:
        """Carry these variables of the frame from now on. Raises for one that cannot be; then none is added.

        `inside` says that the outermost loop runs.
        """
        if threading.get_ident() != self._thread:
            raise carry_errors.another_thread()
        added = {str(name): _Carried(place_of(name, frame), inside) for name in names}
        added = {name: each for name, each in added.items() if not self._is_carried(name, each.place)}
        for name, each in added.items():
            if inside and ((id(frame), frame.f_code) in self._drivers or not isinstance(each.place, InFunction)):
                raise carry_errors.too_late(name)
            self._check(name, each.place)
        if not inside:
            self._adopt(added)
        self._carried |= added
        self._unseen |= added.keys()
        self._unchecked |= added.keys()

    def _is_carried(self, name: str, place: Place) -> bool:
        before = self._carried.get(name)
        if before is not None and before.place != place:
            raise carry_errors.carried_elsewhere(name, owner=place.owner, other=before.place.owner)
        return before is not None

    def _adopt(self, names: Collection[str]) -> None:
        """Raise for names that the checkpoint lacks, unless the config adopts them."""
        new = set() if self._stored is None else set(names) - self._stored.names - self._reported
        if refused := {name for name in new if not self._adoption.adopts(name)}:
            raise carry_errors.not_stored(self._run, refused, self._adoption.adopt)
        if new:
            report_adopted(new)
            self._reported |= new

    # -- where the loop stands ----------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Note that the outermost loop begins: from now on the functions around it may name no more variables.

        Raises:
            LoopError: A variable is one of a function that is not around the loop.
            RunMismatchError: The checkpoint has values of such functions that are not carried.
        """
        frame: FrameType | None = sys._getframe(1)
        drivers = set()
        while frame is not None:
            drivers.add((id(frame), frame.f_code))
            frame = frame.f_back
        self._drivers = frozenset(drivers)
        self.look()
        for name, each in self._carried.items():
            self._check(name, each.place)
        if self._stored is not None:
            self._drop(self._stored.bound - self._stored.inner - self._carried.keys())

    def look(self) -> None:
        """Raise `LoopError` for variables, named since the last look, of functions that do not drive the loop."""
        for name in self._unseen:
            place = self._carried[name].place
            if place.read(name) is None:
                raise carry_errors.not_driving(name, owner=place.owner)
        self._unseen.clear()

    def stand(self, *, inside_epoch: bool) -> None:
        """Raise `RunMismatchError` where a value has no variable at the instant of the checkpoint."""
        if self._stored is not None:
            inner = frozenset() if inside_epoch else self._stored.inner  # the rest of the epoch was skipped
            self._drop(self._stored.bound - self._restored - inner)

    def reached(self) -> None:
        """Look at a boundary. Does nothing where all variables have had values, made in the loop, that can be stored.

        Raises:
            StateError: A value cannot be carried.
            ConfigError: At the first boundary, for a name in `adopt` that nothing has.
        """
        if self._stood and not self._unchecked:
            return
        if self._stored is not None and not self._stood:
            known = self._stored.names | self._carried.keys() | set(self._objects)
            refuse_unknown("adopt", self._adoption.adopt, known)
        self._stood = True
        self.look()
        self._unchecked = {name for name in self._unchecked if not self._check(name, self._carried[name].place)}

    def _check(self, name: str, place: Place) -> bool:
        """Raise `StateError` for a value that cannot be carried. Returns whether there is one."""
        found = place.read(name)
        for value in (found or {}).values():
            passed = next((other for other, target in self._targets.items() if target is value), None)
            if passed is not None:
                raise carry_errors.is_passed(name, passed)
            refuse_value(name, storable(value))
        return bool(found)

    def _drop(self, names: Collection[str]) -> None:
        """Raise for stored values without a variable, unless the config drops them."""
        if refused := {name for name in names if not self._adoption.drops(name)}:
            raise carry_errors.not_carried(self._run, refused, self._adoption.drop)
        if lost := set(names) - self._reported:
            report_dropped(lost)
            self._reported |= lost

    # -- capturing and restoring --------------------------------------------------------------------------------------

    def capture(self) -> Tree | None:
        """Return the tree with the values of now. Variables of inner functions that do not run are not part of it."""
        if self._carried and threading.get_ident() != self._thread:
            raise carry_errors.another_thread()
        found = {name: each.place.read(name) for name, each in self._carried.items()}
        names = [name for name, each in self._carried.items() if found[name] is not None or not each.inner]
        values = {name: storable(value) for each in found.values() for name, value in (each or {}).items()}
        if not names:
            return None
        inner = [name for name in names if self._carried[name].inner]
        devices = devices_of(values)
        return {"names": names, "inner": inner, "values": values, "devices": devices}  # type: ignore[dict-item]

    def restore(self, tree: Mapping[str, Any] | None) -> None:
        """Put the values of a captured tree back, which nobody else may use. None stands for a tree without names."""
        tree = tree or {"names": [], "values": {}, "devices": {}}
        for name, each in self._carried.items():
            live = each.place.read(name)
            if live is None:
                continue  # its function does not run
            if name in tree["values"]:
                with mismatch_on_error(CARRIED):
                    each.place.write(name, placed(name, tree["values"][name], live.get(name), tree["devices"]))
                self._restored.add(name)
            elif name not in tree["names"]:
                self._adopt([name])
            elif live and name not in self._reported:
                self._reported.add(name)
                warn(f"{name}: had no value at the checkpoint, and keeps the one that it has now")
