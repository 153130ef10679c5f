"""Where a variable is: in the dict of a module, or in the frame of a function, which may not run now. Holds no frame.

A frame is found each time, on the way from a loop to the code that drives it; of a recursive function the nearest.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import CodeType, FrameType, FunctionType
from typing import Any, Protocol

from resumable.audit.names.frame_variables import global_names, read, slots, write
from resumable.loop.carried import carry_errors
from resumable.loop.carried.compiled_code import is_part_of, written_code
from resumable.loop.carried.loop_bindings import bound_globals, bound_names, has_loop, is_bound_in_a_loop

_CO_OPTIMIZED = 0x1  # the code of a function, whose names are slots


class Place(Protocol):
    """The owner of a variable. Two are equal if they are the same function, or the same module."""

    @property
    def owner(self) -> str:
        """Return what has the variable, for messages."""

    def read(self, name: str) -> dict[str, object] | None:
        """Return the variable and its value, nothing if it is not bound, None if its function does not run."""

    def write(self, name: str, value: object) -> None:
        """Bind the variable to a value."""


@dataclass(frozen=True)
class InFunction:
    """A variable of a function, or of a class body."""

    code: CodeType

    @property
    def owner(self) -> str:
        return f"{self.code.co_qualname}()"

    def read(self, name: str) -> dict[str, object] | None:
        frame = self._frame()
        return None if frame is None else read(frame, [name])

    def write(self, name: str, value: object) -> None:
        frame = self._frame()
        assert frame is not None
        write(frame, name, value)

    def _frame(self) -> FrameType | None:
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and not is_part_of(frame.f_code, self.code):
            frame = frame.f_back
        return frame


class InModule:
    """A variable of a module or of a notebook, whichever function changes it."""

    def __init__(self, namespace: dict[str, Any]) -> None:
        self._namespace = namespace

    def __eq__(self, other: object) -> bool:
        return isinstance(other, InModule) and other._namespace is self._namespace

    __hash__ = None  # type: ignore[assignment]

    @property
    def owner(self) -> str:
        return "this module"

    def read(self, name: str) -> dict[str, object]:
        return {name: self._namespace[name]} if name in self._namespace else {}

    def write(self, name: str, value: object) -> None:
        self._namespace[name] = value


def place_of(name: object, frame: FrameType) -> Place:
    """Return the place of a variable that the frame's code names.

    Raises:
        LoopError: It is no name, the code has no such variable, or no loop binds it.
    """
    if not isinstance(name, str):
        raise carry_errors.not_a_name(name)
    if not name.isidentifier():
        raise carry_errors.not_a_variable(name)
    code = written_code(frame.f_code)
    is_function = bool(code.co_flags & _CO_OPTIMIZED)
    in_module = name in global_names(code) or (not is_function and frame.f_locals is frame.f_globals)
    place = InModule(frame.f_globals) if in_module else InFunction(code)
    names = slots(code) | bound_names(code) | (frozenset() if is_function else frozenset(frame.f_locals))
    owner = "this module" if code.co_name == "<module>" else f"{code.co_qualname}()"
    if name not in names and not (in_module and name in frame.f_globals):
        raise carry_errors.absent(name, owner=owner, names=names)
    if not is_bound_in_a_loop(name, code) and not (in_module and _is_bound_elsewhere(name, frame)):
        raise carry_errors.bound_in_no_loop(name, owner=owner)
    return place


def _is_bound_elsewhere(name: str, frame: FrameType) -> bool:
    """Return whether a function of the module binds a global, or another cell of a notebook may do so."""
    if "__file__" not in frame.f_globals and not has_loop(written_code(frame.f_code)):
        return True
    functions = [each for each in frame.f_globals.values() if isinstance(each, FunctionType)]
    return any(name in bound_globals(each.__code__) for each in functions if each.__globals__ is frame.f_globals)
