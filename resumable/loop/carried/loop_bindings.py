"""Whether a loop of some code binds a name. Executes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from types import CodeType

from resumable.audit.names.byte_code.comprehensions import Half, comprehension_accesses
from resumable.audit.names.byte_code.control_flow import Code, Graph, blocks_of
from resumable.audit.names.byte_code.instructions import accesses, handlers_of, instructions_of, variables


def bound_names(code: CodeType) -> frozenset[str]:
    """Return the names that the code binds anywhere, or that functions inside it bind for it."""
    return frozenset(name for _, name in _bindings(_listed(code))) | _bound_inside(code)


def is_bound_in_a_loop(name: str, code: CodeType) -> bool:
    """Return whether a loop of the code binds the name, or a function inside the code binds it for the code."""
    listed = _listed(code)
    graph = Graph(blocks_of(listed, names=code.co_names))
    at = [index for index, each in _bindings(listed) if each == name]
    blocks = [number for number, each in enumerate(graph.blocks) if any(each.first <= index < each.end for index in at)]
    return any(_comes_back(graph, block) for block in blocks) or name in _bound_inside(code)


def has_loop(code: CodeType) -> bool:
    """Return whether the code has a loop."""
    graph = Graph(blocks_of(_listed(code), names=code.co_names))
    return any(_comes_back(graph, block) for block in range(len(graph.blocks)))


def bound_globals(code: CodeType) -> frozenset[str]:
    """Return the globals that the code binds, or functions inside it."""
    own = {str(each.value) for each in instructions_of(code) if each.op == "STORE_GLOBAL"}
    return frozenset(own).union(*map(bound_globals, _inner(code)))


def _listed(code: CodeType) -> Code:
    return Code.of(instructions_of(code), handlers_of(code))


def _bindings(code: Code) -> Iterator[tuple[int, str]]:
    """Yield index and name of each access that binds or deletes, without the names of comprehensions, their own."""
    hidden = comprehension_accesses(code.instructions, code.index_at, code.handlers)
    for index, instruction in enumerate(code.instructions):
        for half, access in enumerate(accesses(instruction.op)):
            if access.verb != "LOAD" and Half(index, half) not in hidden:
                yield index, variables(instruction)[half]


def _comes_back(graph: Graph, block: int) -> bool:
    """Return whether control can come back to a block that it left."""
    seen: set[int] = set()
    waiting = list(graph.after[block])
    while waiting:
        at = waiting.pop()
        if at not in seen:
            seen.add(at)
            waiting += graph.after[at]
    return block in seen


def _bound_inside(code: CodeType) -> frozenset[str]:
    """Return the names of this code that functions inside it bind: by `nonlocal`, or of a module by `global`."""
    found = frozenset[str]()
    for inner in _inner(code):
        free = {name for _, name in _bindings(_listed(inner))} & {*inner.co_freevars}
        found |= free | bound_globals(inner) | _bound_inside(inner)
    return found


def _inner(code: CodeType) -> list[CodeType]:
    return [each for each in code.co_consts if isinstance(each, CodeType)]
