"""List what code refers to, for rule 2: functions, closures, suspended generators and classes. No code is run.

The names and their order are frozen with the rule.
"""

from __future__ import annotations

import types
from collections.abc import Iterator

from resumable.data.object_walk import Child
from resumable.data.rng.generator_rule import is_generator
from resumable.data.rng.static_attributes import class_attributes, is_a, named_attributes, slots_of

WRAPPERS = (staticmethod, classmethod, property)


def function_references(function: types.FunctionType) -> Iterator[Child]:
    """Yield the closure, the defaults, the attributes, and the generators that the code names."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        yield from ((name, content) for _, content in cell_references(cell))
    yield "defaults", function.__defaults__
    yield "kwdefaults", function.__kwdefaults__
    yield from named_attributes(function)  # of a decorated one `__wrapped__`
    yield from _named_globals(function.__code__, function.__globals__)


def cell_references(cell: types.CellType) -> Iterator[Child]:
    """Yield the content of a closure cell, if there is one."""
    try:
        yield "contents", cell.cell_contents
    except ValueError:  # a variable not assigned yet
        return


def suspended_references(item: types.GeneratorType[object, object, object]) -> Iterator[Child]:
    """Yield the local variables of a suspended generator function, and the generators that its code names."""
    frame = item.gi_frame
    if frame is not None:
        yield from sorted(frame.f_locals.items())
        yield from _named_globals(frame.f_code, frame.f_globals)
    yield "yieldfrom", item.gi_yieldfrom


def _named_globals(code: types.CodeType, names: dict[str, object]) -> Iterator[Child]:
    for name in _names_in(code):
        value = dict.get(names, name)
        if is_generator(value):
            yield f"globals.{name}", value


def _names_in(code: types.CodeType) -> Iterator[str]:
    """Yield the names that the code reads, and those that functions defined inside it read."""
    yield from code.co_names
    for constant in code.co_consts:
        if type(constant) is types.CodeType:
            yield from _names_in(constant)


def class_references(cls: type) -> Iterator[Child]:
    """Yield the generators that the code of a class names, then its attributes and functions."""
    table = class_attributes(cls)
    for value in table.values():
        for function in _functions_in(value):
            yield from _named_globals(function.__code__, function.__globals__)
    for name, value in table.items():
        if not (name[:2] == name[-2:] == "__") or issubclass(type(value), (types.FunctionType, *WRAPPERS)):
            yield name, value


def _functions_in(value: object) -> Iterator[types.FunctionType]:
    if type(value) is types.FunctionType:
        yield value
    elif is_a(value, *WRAPPERS):
        for _, inner in slots_of(value):
            yield from _functions_in(inner)
