"""Which names change the training: the values of all others end in what is printed, logged or formatted. Pure.

The stack of the interpreter is followed with sets of names in the place of values. A value changes the training where
it reaches a call, a branch, a subscript, an attribute, an iteration, a `return` to a caller that uses it so, or a name
whose value does. Calls that only look at their arguments are recognized by their names. What an unknown instruction
takes counts as used.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from resumable.audit.names.byte_code.control_flow import Block, Code, Graph
from resumable.audit.names.byte_code.effects import Bits, Name
from resumable.audit.names.byte_code.instructions import Access, Instruction, accesses, variables

_LOGS = (
    *("print", "pprint", "display", "echo", "secho", "write", "writelines", "writerow", "flush", "dump", "dumps"),
    *(
        "log",
        "debug",
        "info",
        "warning",
        "warn",
        "error",
        "critical",
        "exception",
        "log_metric",
        "log_metrics",
        "log_dict",
    ),
    *(
        "set_postfix",
        "set_postfix_str",
        "set_description",
        "set_description_str",
        "add_scalar",
        "add_scalars",
        "add_text",
    ),
)
_FORMATS = ("format", "str", "repr", "join", "strftime", "round", "ljust", "rjust", "center", "zfill", "strip")
_COMPUTES = (
    *(
        "float",
        "int",
        "bool",
        "abs",
        "min",
        "max",
        "sum",
        "len",
        "mean",
        "median",
        "std",
        "sqrt",
        "exp",
        "log2",
        "log10",
    ),
    *("pow", "average", "item", "cpu", "detach", "double", "numpy", "tolist", "list", "tuple", "dict", "total_seconds"),
    *("time", "perf_counter", "monotonic", "sorted", "divmod", "timedelta", "items", "keys", "values", "get"),
)
_ONLY_LOOK = frozenset((*_LOGS, *_FORMATS, *_COMPUTES))

_NOTHING = frozenset(("RESUME", "NOP", "PRECALL", "KW_NAMES", "CACHE", "MAKE_CELL", "COPY_FREE_VARS", "NOT_TAKEN"))
_CONSTANTS = frozenset(("LOAD_CONST", "LOAD_SMALL_INT", "PUSH_NULL", "LOAD_FAST_AND_CLEAR", "LOAD_COMMON_CONSTANT"))
_KEEPS = frozenset(("UNARY_NEGATIVE", "UNARY_NOT", "UNARY_INVERT", "UNARY_POSITIVE", "TO_BOOL", "LIST_TO_TUPLE")) | {
    *("FORMAT_SIMPLE", "CONVERT_VALUE", "CALL_INTRINSIC_1")
}
# How many values an instruction joins into one.
_JOINS: dict[str, Callable[[int], int]] = {
    **dict.fromkeys(("BINARY_OP", "COMPARE_OP", "IS_OP", "CONTAINS_OP", "FORMAT_WITH_SPEC"), lambda _: 2),
    **dict.fromkeys(("BUILD_LIST", "BUILD_TUPLE", "BUILD_SET", "BUILD_STRING", "BUILD_SLICE"), lambda n: n),
    "BUILD_MAP": lambda n: 2 * n,
    "BUILD_CONST_KEY_MAP": lambda n: n + 1,
    "BINARY_SLICE": lambda _: 3,
    "FORMAT_VALUE": lambda n: 2 if n & 4 else 1,
}
_CALLS = frozenset(("CALL", "CALL_KW", "CALL_FUNCTION_EX"))
_ADDS = frozenset(("LIST_APPEND", "SET_ADD", "LIST_EXTEND", "SET_UPDATE", "DICT_UPDATE", "DICT_MERGE"))
_SUBSCRIPT = 26  # the argument of BINARY_OP that stands for a subscript from 3.14 on
_RESULT = "<result>"  # the pseudo name of what a call returns
_NULL_LAST = sys.version_info >= (3, 13)


class _Value(NamedTuple):
    """The names that a value comes from, and the name that it was read by, which may be that of a function."""

    names: int = 0
    label: str = ""


_EMPTY = _Value()
_Stack = list[_Value]


def names_that_change_training(code: Code, graph: Graph, *, returns: bool) -> frozenset[str]:
    """Return the texts of all names whose values may end in more than output; `returns` says that returning is more."""
    return _walked(_Walk(returns=returns), code, graph).changing()


def result_changes_training(code: Code, graph: Graph, point: int) -> bool:
    """Return whether what the call at instruction `point` returns may end in more than output; True for no call."""
    if code.instructions[point].op not in _CALLS:
        return True
    walk = _Walk(returns=True, call=code.instructions[point].offset)
    return _RESULT in _walked(walk, code, graph).changing()


def _walked(walk: _Walk, code: Code, graph: Graph) -> _Walk:
    """Follow the stack through all blocks until nothing new is seen."""
    entries: dict[int, _Stack] = {0: []}
    pending = [0]
    while pending:
        number = pending.pop()
        block = graph.blocks[number]
        stack = list(entries[number])
        before = list(stack)
        for instruction in code.instructions[block.first : block.end]:
            walk.step(instruction, stack)
        for following, left in _leaving(code, block, stack, before):
            merged = walk.merge(entries.get(following), left)
            if merged != entries.get(following):
                entries[following] = merged
                pending.append(following)
    return walk


def _leaving(code: Code, block: Block, stack: _Stack, before: _Stack) -> list[tuple[int, _Stack]]:
    """Return each block that may follow, with the stack that it begins with."""
    last = code.instructions[block.end - 1]
    left = [(following, list(stack)) for following in block.next]
    if last.op == "FOR_ITER":
        item = stack[-1] if stack else _EMPTY
        ended = stack[:-1] if sys.version_info < (3, 12) else [*stack, item]
        left = [(block.next[0], [*stack, item]), *((following, ended) for following in block.next[1:])]
    elif last.op.startswith("JUMP_IF_") and len(left) == 2:
        left[0] = (left[0][0], stack[:-1])
    if block.handler is not None:
        handler = next(each for each in code.handlers if each.start <= code.instructions[block.first].offset < each.end)
        base = before[: handler.depth]
        left.append((block.handler, [*base, *[_EMPTY] * (handler.pushed + handler.depth - len(base))]))
    return left


class _Walk:
    """The names that are used for more than output so far, and the names that go into others."""

    def __init__(self, *, returns: bool, call: int | None = None) -> None:
        self._returns, self._followed_call = returns, call
        self._bits = Bits()
        self._used = 0
        self._sources: dict[int, int] = {}  # by the bit of a name: the names that its values come from

    def changing(self) -> frozenset[str]:
        """Return the names that are used, and all that go into them."""
        used, before = self._used, -1
        while used != before:
            before = used
            for bit, sources in self._sources.items():
                used |= sources if used & bit else 0
        return frozenset(name.text for name in self._bits.names(used))

    def merge(self, one: _Stack | None, other: _Stack) -> _Stack:
        """Return the stack of a block that is entered with either one."""
        if one is None:
            return other
        if len(one) != len(other):  # an instruction was not known: what is not in both counts as used
            shorter = min(len(one), len(other))
            self._use(*one[shorter:], *other[shorter:])
            one, other = one[:shorter], other[:shorter]
        pairs = zip(one, other, strict=True)
        return [_Value(a.names | b.names, a.label if a.label == b.label else "") for a, b in pairs]

    def step(self, instruction: Instruction, stack: _Stack) -> None:
        """Do to the stack what the instruction does."""
        op, argument = instruction.op, instruction.argument
        if parts := accesses(op):
            self._access(instruction, parts, stack)
        elif op in _CONSTANTS:
            stack.append(_EMPTY)
        elif op in _CALLS:
            self._call(op, argument, stack)
            if instruction.offset == self._followed_call:
                stack[-1] = _Value(stack[-1].names | self._bit(_RESULT))
        elif op in ("LOAD_ATTR", "LOAD_METHOD"):
            owner = _pop(stack)
            stack.append(_Value(owner.names, str(instruction.value)))
            if op == "LOAD_METHOD" or (argument & 1 and sys.version_info >= (3, 12)):
                stack.append(_Value(owner.names))
        elif op == "LOAD_CLOSURE":
            self._use(_Value(self._bit(str(instruction.value))))
            stack.append(_EMPTY)
        elif op in _JOINS:
            self._join(op, argument, stack)
        elif op not in _NOTHING and op not in _KEEPS and op != "FOR_ITER":
            self._move(instruction, stack)

    def _access(self, instruction: Instruction, parts: Sequence[Access], stack: _Stack) -> None:
        for part, name in zip(parts, variables(instruction), strict=True):
            bit = self._bit(name)
            if part.verb == "STORE":
                self._sources[bit] = self._sources.get(bit, 0) | _pop(stack).names
            elif part.verb == "LOAD":
                if part.kind.startswith("FROM_DICT"):
                    _pop(stack)
                null = [_EMPTY] if instruction.op == "LOAD_GLOBAL" and instruction.argument & 1 else []
                value = [_Value(bit, name)]
                stack += value + null if _NULL_LAST else null + value

    def _call(self, op: str, argument: int, stack: _Stack) -> None:
        """Take the arguments and the two values below, one of which is the function."""
        if op == "CALL_FUNCTION_EX":
            keywords = argument & 1 or sys.version_info >= (3, 14)
            arguments = [_pop(stack) for _ in range(1 + bool(keywords))]
        else:
            arguments = [_pop(stack) for _ in range(argument + (op == "CALL_KW"))]
        callee = [_pop(stack), _pop(stack)]
        if not any(each.label in _ONLY_LOOK for each in callee):
            self._use(*arguments, *callee)
        stack.append(_Value(_joined([*arguments, *callee])))

    def _join(self, op: str, argument: int, stack: _Stack) -> None:
        values = [_pop(stack) for _ in range(_JOINS[op](argument))]
        if op == "BINARY_OP" and argument == _SUBSCRIPT:
            self._use(values[0])
        stack.append(_Value(_joined(values)))

    def _move(self, instruction: Instruction, stack: _Stack) -> None:
        op, argument = instruction.op, instruction.argument
        if op == "POP_TOP":
            _pop(stack)
        elif op == "COPY":
            stack.append(stack[-argument] if argument <= len(stack) else _EMPTY)
        elif op == "SWAP" and argument <= len(stack):
            stack[-1], stack[-argument] = stack[-argument], stack[-1]
        elif op == "BINARY_SUBSCR":
            index, container = _pop(stack), _pop(stack)
            self._use(index)
            stack.append(_Value(container.names | index.names))
        elif op == "UNPACK_SEQUENCE":
            value = _pop(stack)
            stack += [_Value(value.names)] * argument
        elif op in _ADDS:
            value = _pop(stack)
            if argument <= len(stack):
                stack[-argument] = _Value(stack[-argument].names | value.names)
        elif op == "RETURN_VALUE" and not self._returns:
            _pop(stack)
        elif op.startswith("JUMP_IF_"):
            self._use(*stack[-1:])
        elif op not in ("JUMP_FORWARD", "JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT"):
            self._unknown(instruction, stack)

    def _unknown(self, instruction: Instruction, stack: _Stack) -> None:
        """Use what is taken off the stack, and the value on its top, which may be replaced."""
        argument = instruction.argument if instruction.opcode >= dis.HAVE_ARGUMENT else None
        effect = dis.stack_effect(instruction.opcode, argument, jump=False)
        taken = [_pop(stack) for _ in range(max(-effect, 0))]
        self._use(*taken, *stack[-1:])
        stack += [_EMPTY] * max(effect, 0)

    def _use(self, *values: _Value) -> None:
        self._used |= _joined(values)

    def _bit(self, name: str) -> int:
        return self._bits.bit(Name(name))


def _joined(values: Sequence[_Value]) -> int:
    names = 0
    for value in values:
        names |= value.names
    return names


def _pop(stack: _Stack) -> _Value:
    return stack.pop() if stack else _EMPTY
