"""Which names a loop of some code binds, on every Python that runs this file; and code that torch's compiler makes."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from resumable.loop.carried.compiled_code import is_part_of
from resumable.loop.carried.loop_bindings import bound_names, has_loop, is_bound_in_a_loop

MODULE = """
lr = 1
doubled = [item * 2 for item in [1]]
for epoch in range(2):
    head = epoch
    halves = [part / 2 for part in [1]]
    def count():
        global counted
        counted = 1
while True:
    rounds = 1
"""


def loops(xs: Any, context: Any = nullcontext) -> Any:
    """Binds each name in one way."""
    before = 0
    outside = [i for i in xs]  # noqa: C416
    for target in xs:
        first, second = target, 1
        inside = [j for j in xs]  # noqa: C416
        with context() as entered:
            pass
        try:
            tried = 1
        except ValueError as caught:
            handled = caught
        del first
        annotated: int = 2
        shadowed = [shadowed for shadowed in xs]  # noqa: C416
        if walrus := target:
            pass
    while before:
        turned = 1

    def inner() -> None:
        nonlocal written_inside
        written_inside = 2

    written_inside = 1
    after = 1
    return before, outside, second, inside, entered, tried, handled, annotated, shadowed, walrus, turned, inner, after


def in_loops(code: Any) -> set[str]:
    return {name for name in bound_names(code) if is_bound_in_a_loop(name, code)}


def test_names_that_a_loop_binds_are_told_from_others() -> None:
    bound = {"target", "first", "second", "inside", "entered", "tried", "caught", "handled", "annotated", "shadowed"}
    assert in_loops(loops.__code__) == bound | {"walrus", "turned", "written_inside"}
    assert {"before", "outside", "after", "inner"} <= bound_names(loops.__code__)


def test_a_module_has_the_globals_that_its_functions_bind() -> None:
    code = compile(MODULE, "module", "exec")
    assert in_loops(code) == {"epoch", "head", "halves", "count", "counted", "rounds"}
    assert has_loop(code)
    assert not has_loop(compile("lr = 1", "cell", "exec"))


def test_what_the_compiler_runs_in_the_place_of_a_function_is_recognized() -> None:
    code = loops.__code__
    assert is_part_of(code, code)
    assert is_part_of(code.replace(co_name="torch_dynamo_resume_in_loops_at_12"), code)
    assert not is_part_of(code.replace(co_name="torch_dynamo_resume_in_other_at_12"), code)
    assert not is_part_of(in_loops.__code__, code)
