"""Instructions as `dis` lists them, on each Python; those of 3.14 are written by hand, for want of that Python."""

from __future__ import annotations

import asyncio.base_events
import dis
import inspect
import textwrap
import types
from collections.abc import Iterator

import pytest

from resumable.audit.names.byte_code.control_flow import Code
from resumable.audit.names.byte_code.effects import Bits, Scope
from resumable.audit.names.byte_code.instructions import (
    Handler,
    Instruction,
    accesses,
    handlers_of,
    instructions_of,
)
from resumable.audit.names.byte_code.liveness import crossing_in

MODULES = (asyncio.base_events, inspect, textwrap, dis, types)


def codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from codes(constant)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_the_decoder_agrees_with_the_one_of_python(module: types.ModuleType) -> None:
    for code in codes(compile(inspect.getsource(module), "here", "exec")):
        listed = [each for each in dis.get_instructions(code) if each.opname not in ("EXTENDED_ARG", "CACHE")]
        mine = instructions_of(code)
        assert [each.op for each in mine] == [each.opname for each in listed]
        for own, theirs in zip(mine, listed, strict=True):
            if accesses(own.op):
                assert own.value == theirs.argval
            if theirs.opcode in (*dis.hasjrel, *dis.hasjabs):
                assert own.target == theirs.argval
        rows = dis.Bytecode(code).exception_entries
        assert [each[:4] for each in handlers_of(code)] == [(row.start, row.end, row.target, row.depth) for row in rows]


def test_merged_instructions_are_two_accesses() -> None:
    def halves(op: str) -> list[str]:
        return [f"{each.verb}_{each.kind}" for each in accesses(op)]

    assert halves("LOAD_FAST_BORROW_LOAD_FAST_BORROW") == ["LOAD_FAST"] * 2
    assert halves("STORE_FAST_LOAD_FAST") == ["STORE_FAST", "LOAD_FAST"]
    assert halves("STORE_FAST_STORE_FAST") == ["STORE_FAST"] * 2
    assert halves("LOAD_FAST_LOAD_FAST") == ["LOAD_FAST"] * 2
    assert halves("LOAD_FAST_CHECK") == halves("LOAD_FAST_BORROW") == ["LOAD_FAST"]
    assert halves("LOAD_ATTR") == halves("LOAD_FAST_AND_CLEAR") == []
    assert halves("LOAD_FROM_DICT_OR_DEREF") == ["LOAD_FROM_DICT_OR_DEREF"]


def template() -> None:
    """Lend its flags to code that is written by hand."""


def written(*lines: tuple[str, object]) -> Code:
    """Return code of two bytes an instruction; the value of a jump is the line that it goes to."""
    found = []
    for line, (op, value) in enumerate(lines):
        jumps = isinstance(value, int) and ("JUMP" in op or op == "FOR_ITER")
        found.append(Instruction(2 * line, op, None if jumps else value, 2 * value if jumps else None))  # type: ignore[operator]
    return Code.of(found, [])


def test_a_loop_as_python_3_14_compiles_it() -> None:
    # def loop(s):
    #     total = 0; prev = 0; best = 0
    #     for k in s: total = total + prev; prev, loss = k, k; use(loss)
    code = written(
        ("RESUME", None),
        ("LOAD_SMALL_INT", None),
        ("STORE_FAST", "total"),
        ("LOAD_SMALL_INT", None),
        ("STORE_FAST", "prev"),
        ("LOAD_FAST_BORROW", "s"),
        ("GET_ITER", None),
        ("FOR_ITER", 19),
        ("STORE_FAST", "k"),
        ("LOAD_FAST_BORROW_LOAD_FAST_BORROW", ("total", "prev")),
        ("BINARY_OP", None),
        ("STORE_FAST", "total"),
        ("LOAD_FAST_BORROW_LOAD_FAST_BORROW", ("k", "k")),
        ("STORE_FAST_STORE_FAST", ("prev", "loss")),
        ("LOAD_GLOBAL", "use"),
        ("LOAD_FAST_BORROW", "loss"),
        ("CALL", None),
        ("POP_TOP", None),
        ("JUMP_BACKWARD", 7),
        ("END_FOR", None),
        ("POP_ITER", None),
        ("LOAD_CONST", None),
        ("RETURN_VALUE", None),
    )
    crossing = crossing_in(code, Scope(template.__code__, {}, False, Bits()), 14, None, inside=False)
    assert [name.text for name in crossing.carried] == ["prev", "total"]
    assert crossing.after == crossing.head == ()


def test_an_inlined_comprehension_as_python_3_14_compiles_it() -> None:
    # for k in s: kept = [x for x in k]; use(x); x = k
    code = written(
        ("LOAD_FAST_BORROW", "s"),
        ("GET_ITER", None),
        ("FOR_ITER", 21),
        ("STORE_FAST_LOAD_FAST", ("k", "k")),
        ("GET_ITER", None),
        ("LOAD_FAST_AND_CLEAR", "x"),
        ("SWAP", None),
        ("BUILD_LIST", None),
        ("SWAP", None),
        ("FOR_ITER", 13),
        ("STORE_FAST_LOAD_FAST", ("x", "x")),
        ("LIST_APPEND", None),
        ("JUMP_BACKWARD", 9),
        ("END_FOR", None),
        ("POP_ITER", None),
        ("STORE_FAST_STORE_FAST", ("kept", "x")),
        ("LOAD_FAST_CHECK", "x"),
        ("POP_TOP", None),
        ("LOAD_FAST_BORROW", "k"),
        ("STORE_FAST", "x"),
        ("JUMP_BACKWARD", 2),
        ("END_FOR", None),
        ("POP_ITER", None),
        ("RETURN_VALUE", None),
    )
    crossing = crossing_in(code, Scope(template.__code__, {}, False, Bits()), 4, None, inside=False)
    assert [name.text for name in crossing.carried] == ["x"]


def test_a_handler_covers_what_may_raise_before_it_binds() -> None:
    # for k in s:
    #     try: x = f(k)
    #     except: pass
    #     use(x)
    lines = written(
        ("LOAD_FAST_BORROW", "s"),
        ("GET_ITER", None),
        ("FOR_ITER", 15),
        ("STORE_FAST", "k"),
        ("NOP", None),
        ("LOAD_GLOBAL", "f"),
        ("LOAD_FAST_BORROW", "k"),
        ("CALL", None),
        ("STORE_FAST", "x"),
        ("LOAD_GLOBAL", "use"),
        ("LOAD_FAST_CHECK", "x"),
        ("CALL", None),
        ("POP_TOP", None),
        ("NOT_TAKEN", None),
        ("JUMP_BACKWARD", 2),
        ("END_FOR", None),
        ("POP_ITER", None),
        ("RETURN_VALUE", None),
        ("PUSH_EXC_INFO", None),
        ("POP_TOP", None),
        ("POP_EXCEPT", None),
        ("JUMP_BACKWARD_NO_INTERRUPT", 9),
    )
    code = Code.of(lines.instructions, [Handler(10, 18, 36, 1)])
    crossing = crossing_in(code, Scope(template.__code__, {}, False, Bits()), 4, None, inside=False)
    assert [name.text for name in crossing.carried] == ["x"]
