"""The module variables that the user's own code names, for rule 3. No code is run, and nothing is imported.

The names and their order are frozen with the rule.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from pathlib import PurePath

from resumable.data.object_walk import Child
from resumable.data.rng.static_attributes import instance_attributes, is_a, module_of

_MAX_MODULES = 4  # of a dotted name
_INSTALLED = {"site-packages", "dist-packages"}


class NamedGlobals:
    """The module variables that one function names."""

    __slots__ = ("children",)

    def __init__(self, children: list[Child]) -> None:
        self.children = children


def globals_of(item: object) -> NamedGlobals | None:
    """Return the variables that a function or a suspended generator of the user's names; None where there are none."""
    if type(item) is types.FunctionType:
        code, variables = item.__code__, item.__globals__
    elif type(item) is types.GeneratorType and item.gi_frame is not None:
        code, variables = item.gi_frame.f_code, item.gi_frame.f_globals
    else:
        return None
    if not is_users(variables):
        return None
    names = list(dict.fromkeys(_names_in(code)))
    children = list(_named(variables, names, _MAX_MODULES))
    return NamedGlobals(children) if children else None


def is_users(variables: dict[str, object]) -> bool:
    """Return whether a module with these variables is the user's: not installed, or of the package of `__main__`."""
    name, file = variables.get("__name__"), variables.get("__file__")
    package = name.partition(".")[0] if type(name) is str else ""
    if package == "resumable" or package in sys.stdlib_module_names:
        return package == "__main__"
    main = vars(sys.modules["__main__"]).get("__package__") if "__main__" in sys.modules else None
    if package and type(main) is str and package == main.partition(".")[0]:
        return True
    return type(file) is not str or _INSTALLED.isdisjoint(PurePath(file).parts)


def is_users_class(cls: type) -> bool:
    """Return whether a class is of a module of the user's."""
    module = sys.modules.get(module_of(cls))
    inside = None if module is None else instance_attributes(module)
    return inside is None or is_users(inside)


def _named(variables: dict[str, object], names: list[str], levels: int) -> Iterator[Child]:
    """Yield the variables with these names, and those of the user's modules among them."""
    for name in names:
        value = dict.get(variables, name)
        if is_a(value, types.ModuleType):
            inside = instance_attributes(value)
            if levels and inside is not None and is_users(inside):
                yield from ((f"{name}.{inner}", child) for inner, child in _named(inside, names, levels - 1))
        elif type(value) is types.FunctionType:
            if is_users(value.__globals__):
                yield name, value
        elif value is not None and (not is_a(value, type) or is_users_class(value)):
            yield name, value


def _names_in(code: types.CodeType) -> Iterator[str]:
    """Yield the names that the code reads, and those that functions defined inside it read."""
    yield from code.co_names
    for constant in code.co_consts:
        if type(constant) is types.CodeType:
            yield from _names_in(constant)
