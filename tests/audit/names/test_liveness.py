"""Which names cross the boundary of a loop: one idea a test. Runs on every Python, without torch."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from resumable.audit.names.byte_code.liveness import Crossing, TooLongError, crossing_names
from resumable.audit.names.user_frames import place_of_loop, waiting_frames
from tests.audit.names.asking import Source, crossing_of, texts

# ruff: noqa: B007, B023, B905, C416, F841, SIM105, SIM113


def check(
    loop: Callable[[Any], Any], carried: Iterable[str] = (), after: Iterable[str] = (), head: Iterable[str] = ()
) -> None:
    assert crossing_of(loop) == (sorted(carried), sorted(after), sorted(head))


def test_a_sum_and_a_value_of_the_turn_before_are_carried() -> None:
    def loop(s: Any) -> Any:
        total, x = 0, 5
        for k in s:
            y = x
            x = k
            total += y

    check(loop, ["total", "x"])


def test_what_every_turn_binds_first_is_not() -> None:
    def loop(s: Any) -> Any:
        for k in s:
            loss = k * 2
            if loss > 2:
                print(end="")
        return loss

    check(loop)


def test_the_last_loss_behind_the_loop_is_nothing_and_the_best_is_after() -> None:
    def loop(s: Any) -> Any:
        best = None
        for k in s:
            loss = k
            if loss == 0:
                best = loss
        return loss, best

    check(loop, after=["best"])


def test_a_number_bound_only_by_an_inner_loop_is_not_carried() -> None:
    def loop(s: Any) -> Any:
        for k in s:
            for micro in range(2):
                loss = k + micro
            print(end=str(loss)[:0])

    check(loop, after=["loss"])


def test_with_is_taken_to_let_exceptions_pass() -> None:
    def loop(s: Any) -> Any:
        for k in s:
            with contextlib.nullcontext():
                out = k
            print(end=str(out)[:0])

    check(loop)


def test_with_suppress_lets_them_not_pass() -> None:
    def loop(s: Any) -> Any:
        for k in s:
            with contextlib.suppress(ZeroDivisionError):
                out = 1 // (2 - k)
            print(end=str(out)[:0])

    check(loop, ["out"])


def test_try_is_followed_into_its_handlers() -> None:
    def loop(s: Any) -> Any:
        for k in s:
            try:
                x = 1 // (2 - k)
            except ZeroDivisionError:
                pass
            print(end=str(x)[:0])

    check(loop, ["x"])


def test_an_iterator_that_is_begun_again_is_carried() -> None:
    def loop(s: Any) -> Any:
        it = iter([1])
        for _ in s:
            try:
                next(it)
            except StopIteration:
                it = iter([1])

    check(loop, ["it"])


def test_variables_of_comprehensions_are_their_own() -> None:
    def loop(s: Any) -> Any:
        x, kept = 1, []
        for k in s:
            kept = [x for x in range(k)] + [[y for y in range(2)] for x in range(2)]
            print(end=str([x, kept])[:0])
            x = k

    check(loop, ["x"])


def test_a_comprehension_in_a_handler_whose_cleanup_is_jumped_over() -> None:
    def loop(s: Any) -> Any:
        b = 1
        for k in s:
            try:
                b = 1 // (1 - k)
            except ZeroDivisionError:
                print(end=str([b + k for b in range(3)])[:0])
            print(end=str(b)[:0])

    check(loop, ["b"])


def test_walrus_del_and_match() -> None:
    def loop(s: Any) -> Any:
        a = b = c = 0
        for k in s:
            if (a := k) and b:
                del b
            b = 1
            match (k, c):
                case (0, d):
                    c = d
                case _:
                    pass

    check(loop, ["b", "c"])


def test_a_closure_reads_where_it_is_named() -> None:
    def loop(s: Any) -> Any:
        x = y = 0

        def reads():
            return x

        def sets():
            nonlocal y
            y += 1

        for k in s:
            reads()
            x = k
            sets()

    check(loop, ["x", "y"])


def test_a_closure_for_an_optimizer_reads_nothing_old() -> None:
    def loop(s: Any) -> Any:
        for k in s:
            batch = k

            def closure():
                return batch

            closure()
            (lambda: batch)()

    check(loop)


def test_a_loop_around_the_outermost_carries_nothing() -> None:
    def loop(s: Any) -> Any:
        score = 0
        for fold in range(1):
            for k in s:
                x = k
            score += x

    check(loop)


def test_while_and_next() -> None:
    def loop(s: Any) -> Any:
        it, previous = iter(s), None
        while True:
            lr = 5
            try:
                k = next(it)
            except StopIteration:
                break
            print(end=str([previous, lr])[:0])
            previous = k

    check(loop, ["previous"], head=["lr"])


def test_through_enumerate_zip_map_and_islice() -> None:
    def loop(s: Any) -> Any:
        total = 0
        for i, (k, _) in enumerate(zip(map(int, itertools.islice(s, 3)), "abc")):
            total += k + i

    check(loop, ["total"])


def test_the_head_of_an_epoch_is_told_apart() -> None:
    found: list[Crossing] = []

    def epochs() -> Iterator[int]:
        for epoch in range(2):
            nested.place = place_of_loop(sys._getframe(1))  # type: ignore[attr-defined]
            yield epoch

    def batches() -> Iterator[int]:
        for batch in range(2):
            [waiting] = waiting_frames(sys._getframe(1), nested.place)  # type: ignore[attr-defined]
            frame = waiting.frame
            found.append(crossing_names(frame.f_code, frame.f_lasti, {}, flat=False, outermost=waiting.outermost))
            del frame, waiting
            yield batch

    def nested() -> None:
        best = 0
        for epoch in epochs():
            lr, total = epoch * 2, 0
            for k in batches():
                total += k * lr
            best = max(best, total)

    nested()
    assert texts(found[-1]) == (["best", "total"], [], ["lr"])


def test_a_function_that_has_the_pass_binds_its_head_and_its_arguments() -> None:
    found: list[Crossing] = []

    def epochs() -> Iterator[int]:
        for epoch in range(2):
            found_at.append(place_of_loop(sys._getframe(1)))
            yield epoch

    def batches() -> Iterator[int]:
        for batch in range(2):
            around = waiting_frames(sys._getframe(1), found_at[-1])
            assert [each.frame.f_code.co_name for each in around] == ["one_epoch", "train"]
            found[:] = [
                crossing_names(
                    each.frame.f_code, each.frame.f_lasti, {}, flat=False, outermost=each.outermost, inside=each.inside
                )
                for each in around
            ]
            del around
            yield batch

    def one_epoch(lr: float) -> float:
        noise, total = lr * 2, 0.0
        for k in batches():
            total += k * lr + noise
        return total

    def train() -> None:
        best = 0.0
        for epoch in epochs():
            score = one_epoch(epoch)
            best = max(best, score)

    found_at: list[Any] = []
    train()
    assert [texts(each) for each in found] == [(["total"], [], ["lr", "noise"]), (["best"], [], [])]


def test_a_generator_of_the_user_carries_names_too() -> None:
    source = Source()

    def feed(s: Any) -> Iterator[int]:
        count = 0
        for k in s:
            count += 1
            yield k

    def loop(s: Any) -> None:
        total = 0
        for k in (k for k in feed(s)):
            total += k

    loop(source)
    assert source.functions == ["feed", "<genexpr>", "loop"]
    assert [texts(each)[0] for each in source.found] == [["count"], [], ["total"]]


def test_yield_from_and_async_functions() -> None:
    def hand_on(s: Any) -> Iterator[int]:
        yield from s

    async def loop(s: Any) -> None:
        total = 0
        for k in hand_on(s):
            total += k
            await _nothing()

    check(loop, ["total"])


async def _nothing() -> None:
    return None


@pytest.mark.parametrize("consume", [list, lambda s: sum(k for k in s), lambda s: [k for k in s]])
def test_where_nobody_loops_there_is_nothing_to_say(consume: Callable[[Any], Any]) -> None:
    assert crossing_of(consume) == ([], [], [])


def test_globals_and_the_functions_of_the_module_that_bind_them() -> None:
    source = Source()
    text = """
state = 0
prev = 0
fresh = 0
def helper():
    global state, fresh
    fresh = prev
    state += fresh
for k in source:
    helper()
    prev = k
"""
    exec(compile(text, "cell", "exec"), {"source": source})
    assert texts(source.found[-1]) == (["prev", "state"], [], [])


def test_functions_that_call_each_other_end() -> None:
    source = Source()
    text = """
x = 0
def even(n):
    return x if n == 0 else odd(n - 1)
def odd(n):
    global x
    x += n
    return even(n - 1)
for k in source:
    odd(3)
"""
    exec(compile(text, "cell", "exec"), {"source": source})
    assert texts(source.found[-1]) == (["x"], [], [])


def test_a_class_body_and_exec_with_two_dicts_have_names_of_their_own() -> None:
    source = Source()
    exec("x = 0\nfor k in source: x += k", {"source": source}, {})
    assert texts(source.found[-1])[0] == ["x"]
    source = Source()

    class Body:
        x = 0
        for k in source:
            x += k

    assert texts(source.found[-1])[0] == ["x"]


def test_long_jumps_have_prefixes() -> None:
    lines = "".join(f"  a{i} = k + {i}\n" for i in range(400))
    space: dict[str, Any] = {}
    exec(f"def loop(s):\n x = y = 0\n for k in s:\n{lines}  y = x\n  x = a399\n", space)
    check(space["loop"], ["x"])


def test_of_code_that_is_too_long_nothing_is_said() -> None:
    lines = "  x += k\n" * 40_000  # of three instructions each from 3.13 on
    space: dict[str, Any] = {}
    exec(f"def loop(s):\n x = 0\n for k in s:\n{lines}", space)
    with pytest.raises(TooLongError, match="more than 100000 instructions"):
        check(space["loop"])
