"""Accesses that belong to an inlined comprehension, whose variables are its own. CPython 3.12 and newer inline them.

The outer variable of the same name is put aside (LOAD_FAST_AND_CLEAR). It is put back (STORE_FAST) behind the loop of
the comprehension, and in the handler that cleans up after an exception. Between the two, every access to the name is
the comprehension's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from resumable.audit.names.byte_code.instructions import Handler, Instruction, accesses, variables

_FARTHEST_CLEANUP = 200  # instructions
_MINE = ("FAST", "DEREF")


class Half(NamedTuple):
    """One access of an instruction: the number of the instruction, and which of its halves."""

    at: int
    half: int


class _Code(NamedTuple):
    instructions: Sequence[Instruction]
    index_at: Mapping[int, int]
    handlers: Sequence[Handler]


def comprehension_accesses(
    instructions: Sequence[Instruction], index_at: Mapping[int, int], handlers: Sequence[Handler]
) -> set[Half]:
    """Return the accesses that are to variables of inlined comprehensions. `index_at` is by offset."""
    hidden: set[Half] = set()
    code = _Code(instructions, index_at, handlers)
    for index, instruction in enumerate(instructions):
        if instruction.op == "LOAD_FAST_AND_CLEAR":
            _hide_comprehension(hidden, code, index, str(instruction.value))
    return hidden


def _hide_comprehension(hidden: set[Half], code: _Code, begin: int, name: str) -> None:
    loop = _next(code, begin, ("FOR_ITER", "GET_ANEXT"))
    if loop is None:
        return
    first = code.instructions[loop]
    end = code.index_at[first.target] if first.target is not None else _next(code, loop, ("END_ASYNC_FOR",)) or loop
    for index in range(begin + 1, end):
        hidden.update(_halves(code.instructions[index], index, name))
    _hide_put_back(hidden, code, end, name)
    around = [each for each in code.handlers if each.start <= first.offset < each.end]
    for handler in sorted(around, key=lambda each: each.end - each.start)[:1]:
        _hide_put_back(hidden, code, code.index_at[handler.target], name)


def _hide_put_back(hidden: set[Half], code: _Code, index: int, name: str) -> None:
    """Hide the first store of the name, as control goes: in a handler the compiler jumps over the cleanup."""
    for _ in range(_FARTHEST_CLEANUP):
        if index >= len(code.instructions):
            return
        instruction = code.instructions[index]
        stores = [half for half in _halves(instruction, index, name, verb="STORE") if half not in hidden]
        if stores or instruction.op == "RERAISE":
            hidden.update(stores[:1])
            return
        jumps = instruction.op.startswith("JUMP_") and instruction.target is not None
        index = code.index_at[instruction.target] if jumps else index + 1  # type: ignore[index]


def _halves(instruction: Instruction, index: int, name: str, *, verb: str | None = None) -> list[Half]:
    """Return the accesses of an instruction to the name: all of them, or those that do `verb`."""
    pairs = enumerate(zip(accesses(instruction.op), variables(instruction), strict=False))
    return [
        Half(index, half)
        for half, (access, of) in pairs
        if access.kind in _MINE and of == name and verb in (None, access.verb)
    ]


def _next(code: _Code, index: int, ops: tuple[str, ...]) -> int | None:
    found = (at for at in range(index, len(code.instructions)) if code.instructions[at].op in ops)
    return next(found, None)
