"""The effects of instructions on names: the variables that each one reads and binds. Executes nothing.

A nested function counts where its name is read, a lambda or comprehension where it is made, and a function of the same
module where its global name is read. What they read first and bind is found by `functions.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import CodeType, FunctionType
from typing import NamedTuple

from resumable.audit.names.byte_code.comprehensions import Half, comprehension_accesses
from resumable.audit.names.byte_code.control_flow import Code
from resumable.audit.names.byte_code.instructions import Access, Instruction, accesses, variables

_NEWLOCALS = 0x2
_QUIET = {
    *("RESUME", "NOP", "POP_TOP", "PUSH_NULL", "LOAD_CONST", "RETURN_CONST", "COPY", "SWAP", "STORE_FAST", "LOAD_FAST"),
    *("MAKE_CELL", "JUMP_FORWARD", "JUMP_BACKWARD", "LOAD_SMALL_INT", "NOT_TAKEN"),
}
_NEAR = 7  # instructions between the code of a function and the name that it is stored under
_MAKES_FUNCTION = ("MAKE_FUNCTION", "SET_FUNCTION_ATTRIBUTE", "LOAD_CONST")
_GLOBAL_KINDS = ("GLOBAL", "FROM_DICT_OR_GLOBALS")


class Name(NamedTuple):
    """A variable. At module level every variable is a global one."""

    text: str
    is_global: bool = False


class Bits:
    """One bit for each name that is seen; a set of names is a whole number."""

    def __init__(self) -> None:
        self._numbers: dict[Name, int] = {}

    def bit(self, name: Name) -> int:
        """Return the bit of a name."""
        return 1 << self._numbers.setdefault(name, len(self._numbers))

    def names(self, mask: int) -> tuple[Name, ...]:
        """Return the names of these bits, sorted."""
        return tuple(sorted(name for name, number in self._numbers.items() if mask >> number & 1))


class Effect(NamedTuple):
    """What one access does: names read before anything is written, no longer holding their value, and bound.

    `calls` are functions that may run here; they read and bind names, too. Where it `raises`, nothing is written.
    """

    use: int = 0
    kill: int = 0
    bind: int = 0
    raises: bool = False
    calls: tuple[CodeType, ...] = ()


_RAISES = (Effect(raises=True),)


class Scope(NamedTuple):
    """Where the names of a code object live: `flat` code (a module, the cell of a notebook) has global ones only."""

    code: CodeType
    namespace: Mapping[str, object]
    flat: bool
    bits: Bits


def effects_of(scope: Scope, code: Code) -> list[tuple[Effect, ...]]:
    """Return the effects of each instruction, none for most."""
    hidden = comprehension_accesses(code.instructions, code.index_at, code.handlers)
    functions, made = _functions(scope, code)
    known: dict[tuple[str, object], tuple[Effect, ...]] = {}  # of instructions without hidden accesses
    result: list[tuple[Effect, ...]] = []
    for index, instruction in enumerate(code.instructions):
        key = instruction.op, instruction.value
        if not accesses(instruction.op):
            result.append(made.get(index, ()) if instruction.op in _QUIET else _RAISES)
        elif hidden and (Half(index, 0) in hidden or Half(index, 1) in hidden):
            result.append(
                _of_accesses(scope, functions, instruction, {each.half for each in hidden if each.at == index})
            )
        elif key in known:
            result.append(known[key])
        else:
            known[key] = _of_accesses(scope, functions, instruction, ())
            result.append(known[key])
    return result


def _of_accesses(
    scope: Scope,
    functions: Mapping[str, Sequence[CodeType]],
    instruction: Instruction,
    hidden: Collection[int],
) -> tuple[Effect, ...]:
    parts = accesses(instruction.op)
    raises = instruction.op not in _QUIET and not all(part.kind == "FAST" and not part.may_be_unbound for part in parts)
    pairs = enumerate(zip(parts, variables(instruction), strict=True))
    found = [_of_access(scope, functions, part, name) for half, (part, name) in pairs if half not in hidden]
    return (*_RAISES, *found) if raises else tuple(found)


def _of_access(scope: Scope, functions: Mapping[str, Sequence[CodeType]], access: Access, name: str) -> Effect:
    code = scope.code
    if (access.verb, access.kind) == ("LOAD", "FAST") and name in (*code.co_cellvars, *code.co_freevars):
        return Effect()  # 3.13 reads the cell itself, for a function that is made here
    is_global = scope.flat or access.kind in _GLOBAL_KINDS
    bit = scope.bits.bit(Name(name, is_global))
    if access.verb != "LOAD":
        # To delete what is not there raises, and that a name is not there crosses a boundary like a value.
        return Effect(use=bit if access.verb == "DELETE" else 0, kill=bit, bind=bit)
    nested = functions.get(name, ()) if name != code.co_name else ()
    if nested:
        return Effect(use=bit, calls=tuple(nested))
    return Effect(use=bit, calls=_of_the_module(scope, name) if is_global else ())


def _functions(scope: Scope, code: Code) -> tuple[dict[str, list[CodeType]], dict[int, tuple[Effect, ...]]]:
    """Return the functions that run where their name is read, and those that run where they are made."""
    named: dict[str, list[CodeType]] = {}
    made: dict[int, tuple[Effect, ...]] = {}
    for constant in filter(_is_named_function, scope.code.co_consts):
        named.setdefault(constant.co_name, []).append(constant)
    for index, instruction in enumerate(code.instructions):
        if instruction.op != "LOAD_CONST" or not isinstance(instruction.value, CodeType):
            continue
        stored = _stored_as(code.instructions, index)
        if stored is None or not (_is_named_function(instruction.value) or _is_lambda(code, index, stored)):
            made[index] = (Effect(calls=(instruction.value,)),)
        elif not _is_named_function(instruction.value):
            named.setdefault(variables(code.instructions[stored])[0], []).append(instruction.value)
    return named, made


def _of_the_module(scope: Scope, name: str) -> tuple[CodeType, ...]:
    """Return the function of the same module that has this global name."""
    function = scope.namespace.get(name)
    function = getattr(function, "__wrapped__", function) if isinstance(function, FunctionType) else None
    if isinstance(function, FunctionType) and function.__globals__ is scope.namespace:
        return (function.__code__,)
    return ()


def _is_named_function(constant: object) -> bool:
    """Return whether this is the code of a `def`."""
    return isinstance(constant, CodeType) and bool(constant.co_flags & _NEWLOCALS) and constant.co_name[0] != "<"


def _stored_as(instructions: Sequence[Instruction], index: int) -> int | None:
    near = range(index + 1, min(index + 1 + _NEAR, len(instructions)))
    return next((at for at in near if instructions[at].op.startswith("STORE_")), None)


def _is_lambda(code: Code, index: int, stored: int) -> bool:
    """Return whether a lambda is stored as it is: nothing but the making of it stands before the store."""
    value = code.instructions[index].value
    made = all(code.instructions[at].op in _MAKES_FUNCTION for at in range(index + 1, stored))
    return made and isinstance(value, CodeType) and value.co_name == "<lambda>"
