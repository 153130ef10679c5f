"""Read and write the variables of a frame that waits for its callee, by name. Independent of what they mean.

A frame is only an argument here and is stored nowhere: it has no weak references, and it holds all that it names.
Names that a function has no slot for are globals to it, as they are to the interpreter.
"""

from __future__ import annotations

import ctypes
import dis
import sys
from collections.abc import Iterable, Mapping, MutableMapping
from functools import lru_cache
from types import CodeType, FrameType

_CO_OPTIMIZED = 0x1  # its names are slots of the frame: a function or generator, but no module, cell or class body
_HAS_PROXY = sys.version_info >= (3, 13)  # PEP 667: `f_locals` of such a frame writes through, and copies nothing


def read(frame: FrameType, names: Iterable[str]) -> dict[str, object]:
    """Return the values of those names that are bound in the frame. Nothing stays alive because of the call."""
    wanted = tuple(names)
    code = frame.f_code
    if not code.co_flags & _CO_OPTIMIZED:
        local = _namespace(frame)
        found = _among(local, wanted)
        return found if local is frame.f_globals else _among(frame.f_globals, wanted) | found
    own = slots(code)
    found = _among(frame.f_globals, [name for name in wanted if name not in own])
    view = frame.f_locals
    found |= _among(view, [name for name in wanted if name in own])
    if not _HAS_PROXY:
        _empty(view, own)
    return found


def write(frame: FrameType, name: str, value: object) -> None:
    """Bind a name of the frame to a value, also where it is not bound yet.

    Before Python 3.13 the frame must be one of this thread, and must wait for a callee. Raises `LookupError` for a name
    that the frame's code does not have.
    """
    code = frame.f_code
    if name in global_names(code):
        frame.f_globals[name] = value
    elif not code.co_flags & _CO_OPTIMIZED:
        _namespace(frame)[name] = value
    elif name not in slots(code):
        raise LookupError(f"{code.co_qualname} has no variable {name!r}")
    elif _HAS_PROXY:
        frame.f_locals[name] = value
    else:
        _write_slot(frame, name, value)


@lru_cache(maxsize=64)
def slots(code: CodeType) -> frozenset[str]:
    """Return the names that a function keeps in its frame: its own, those of inner functions, and free ones."""
    return frozenset((*code.co_varnames, *code.co_cellvars, *code.co_freevars))


@lru_cache(maxsize=64)
def global_names(code: CodeType) -> frozenset[str]:
    """Return the names that this code reads or binds as globals whatever its own namespace holds."""
    return frozenset(each.argval for each in dis.get_instructions(code) if each.opname.endswith("_GLOBAL"))


def _namespace(frame: FrameType) -> MutableMapping[str, object]:
    """Return the dict of a module, cell or class body.

    While a comprehension runs in it, Python 3.12 returns a copy each time, and 3.13 a proxy of that comprehension.
    """
    local = frame.f_locals
    if local is frame.f_locals:
        return local
    if frame.f_code.co_name == "<module>":
        return frame.f_globals
    raise LookupError(f"the names of {frame.f_code.co_qualname} are out of reach in a comprehension")


def _write_slot(frame: FrameType, name: str, value: object) -> None:
    """Write as debuggers do, but this name alone: other slots may have changed in another thread meanwhile."""
    view, own = frame.f_locals, slots(frame.f_code)
    for each in own:
        view.pop(each, None)
    view[name] = value
    keeping = ctypes.c_int(0)  # 1 would bind None to each absent name from 3.12 on
    ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), keeping)
    view = frame.f_locals  # as it is now, for others that hold this dict
    _empty(view, own)


def _empty(view: MutableMapping[str, object], own: Iterable[str]) -> None:
    """Drop the values in the copy that a frame keeps: the last loss with its graph, the last batch.

    A copy that others hold stays full: what `locals()` returned, or what a debugger shows.
    """
    ours = 4  # the frame, the caller, the parameter, and the argument below
    if sys.gettrace() is None and sys.getrefcount(view) <= ours:
        for each in own:
            view.pop(each, None)


def _among(namespace: Mapping[str, object], names: Iterable[str]) -> dict[str, object]:
    return {name: namespace[name] for name in names if name in namespace}
