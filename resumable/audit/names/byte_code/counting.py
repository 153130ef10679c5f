"""Counters in byte code: names that every turn adds one to, and `enumerate` around an iterator that resumes. Pure."""

from __future__ import annotations

import dis

from resumable.audit.names.byte_code.control_flow import Code
from resumable.audit.names.byte_code.instructions import Instruction, accesses, variables

_COUNTS = ("enumerate", "count")
_MODULES = ("itertools", "it")  # as programs import it
_STATEMENT = 60  # instructions of the expression that a `for` iterates over
_ENDS_STATEMENT = ("STORE_", "POP_TOP", "JUMP", "POP_JUMP", "FOR_ITER", "END_FOR", "RESUME")
_ADDS_IN_PLACE = 13  # the argument of BINARY_OP


def counters(code: Code) -> frozenset[str]:
    """Return the names to which the code adds the constant 1, in place."""
    found = set()
    for load, one, add, store in zip(*(code.instructions[at:] for at in range(4)), strict=False):
        if add.op == "BINARY_OP" and add.argument == _ADDS_IN_PLACE and _is_one(one):
            parts = accesses(store.op)
            if parts and parts[0].verb == "STORE" and variables(store)[0] == variables(load)[-1]:
                found.add(variables(store)[0])
    return frozenset(found)


def _is_one(instruction: Instruction) -> bool:
    if instruction.op == "LOAD_SMALL_INT":
        return instruction.argument == 1
    return instruction.op == "LOAD_CONST" and type(instruction.value) is int and instruction.value == 1


def recounted_by(code: Code, offset: int) -> str | None:
    """Return the name of what counts the items of the `for` that waits at `offset`, and begins at 0 after a resume.

    None where nothing does, where its count begins elsewhere, and where the count is not used.
    """
    point = code.index_of(offset)
    if code.instructions[point].op != "FOR_ITER":
        return None
    before = range(point - 1, max(point - 5, -1), -1)
    begin = next((at for at in before if code.instructions[at].op == "GET_ITER"), None)
    if begin is None or not _uses_count(code, point):
        return None
    for at in range(begin - 1, max(begin - _STATEMENT, -1), -1):
        instruction = code.instructions[at]
        if instruction.op.startswith(_ENDS_STATEMENT):
            return None
        if instruction.value in _COUNTS and _is_pythons(code, at):
            return str(instruction.value) if _begins_at_0(code, at, begin) else None
    return None


def _is_pythons(code: Code, at: int) -> bool:
    """Return whether the function that is read at `at` is a global name, or an attribute of `itertools`."""
    if code.instructions[at].op in ("LOAD_ATTR", "LOAD_METHOD"):
        return at > 0 and code.instructions[at - 1].value in _MODULES
    return code.instructions[at].op in ("LOAD_GLOBAL", "LOAD_NAME")


def _uses_count(code: Code, point: int) -> bool:
    """Return whether the first name that the `for` binds is read anywhere."""
    bound = next((each for each in code.instructions[point + 1 : point + 6] if each.op.startswith("STORE_")), None)
    if bound is None:
        return True
    name = variables(bound)[0]
    return any(
        part.verb == "LOAD" and of == name
        for each in code.instructions
        for part, of in zip(accesses(each.op), variables(each), strict=False)
    )


def _begins_at_0(code: Code, at: int, end: int) -> bool:
    """Return whether the call of the function that is read at `at` has no start of its own, or a constant one."""
    depth = 0
    for index in range(at + 1, end):
        each = code.instructions[index]
        depth += dis.stack_effect(each.opcode, each.argument if each.opcode >= dis.HAVE_ARGUMENT else None, jump=False)
        if depth < 0 and each.op in ("CALL", "CALL_KW"):
            pushed = [before for before in code.instructions[at:index] if before.op not in ("PRECALL", "KW_NAMES")]
            last = pushed[-2] if each.op == "CALL_KW" else pushed[-1]
            own = int(code.instructions[at].value == "enumerate")  # arguments without a start
            return each.argument <= own or last.op in ("LOAD_CONST", "LOAD_SMALL_INT")
    return True
