"""What `trainer.carry` refuses, and when: names at the call, values as soon as they are there."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import nn

from resumable import LoopError, Run, StateError, Trainer
from tests.loop.carried.launches import Loop, launch, loader


def refused(loop: Loop, run: Path, kind: type[Exception] = LoopError, **config: Any) -> str:
    """The error of a launch, with its hint."""
    with pytest.raises(kind) as caught:
        launch(run, loop, **config)
    return str(caught.value)


def attribute(trainer: Trainer, seen: list[Any], ends: Callable[[], None]) -> None:
    trainer.carry("self.x")


def value(trainer: Trainer, seen: list[Any], ends: Callable[[], None]) -> None:
    lr = 0.5
    trainer.carry(lr)  # type: ignore[arg-type]


def misspelt(trainer: Trainer, seen: list[Any], ends: Callable[[], None]) -> None:
    trainer.carry("bets")
    for best in trainer.steps(2):
        seen.append(best)


def constant(trainer: Trainer, seen: list[Any], ends: Callable[[], None]) -> None:
    history: list[int] = []
    trainer.carry("history")
    for step in trainer.steps(2):
        history.append(step)


def of_a_comprehension(trainer: Trainer, seen: list[Any], ends: Callable[[], None]) -> None:
    trainer.carry("item")
    seen.extend([item + 1 for item in trainer.steps(2)])


def builtin(trainer: Trainer, seen: list[Any], ends: Callable[[], None]) -> None:
    trainer.carry("print")
    for step in trainer.steps(2):
        print(step)


def of_a_caller(trainer: Trainer, seen: list[Any], ends: Callable[[], None]) -> None:
    def set_up() -> None:
        trainer.carry("lr")

    lr = 1.0
    set_up()
    for _ in trainer.steps(2):
        lr /= 2


def of_another_loop(trainer: Trainer, seen: list[Any], ends: Callable[[], None]) -> None:
    def warm_up() -> float:
        lr = 0.0
        trainer.carry("lr")
        for step in range(3):
            lr += step
        return lr

    seen.append(warm_up())
    for step in trainer.steps(2):
        seen.append(step)


def within_the_loop(trainer: Trainer, seen: list[Any], ends: Callable[[], None]) -> None:
    for step in trainer.steps(2):
        trainer.carry("lr")
        lr = step  # noqa: F841


def in_a_body(trainer: Trainer, seen: list[Any], ends: Callable[[], None]) -> None:
    def body() -> None:
        total = 0
        trainer.carry("total")
        for x in range(3):
            total += x

    for _ in trainer.steps(2):
        body()


def twice(trainer: Trainer, seen: list[Any], ends: Callable[[], None]) -> None:
    def one_pass() -> None:
        total = 0
        trainer.carry("total")
        for _ in trainer.batches(loader()):
            total += 2

    total = 0
    trainer.carry("total")
    for _ in trainer.epochs(2):
        one_pass()
        total += 2


def global_within_the_loop(trainer: Trainer, seen: list[Any], ends: Callable[[], None]) -> None:
    def one_pass() -> None:
        global counted
        trainer.carry("counted")
        for _ in trainer.batches(loader()):
            counted = 1

    for _ in trainer.epochs(2):
        one_pass()


counted = 0

MISUSES = {
    attribute: 'carry("self.x"): expected the name of a variable, found an expression',
    value: "carry(...): expected names of variables as text, found a value of type float",
    misspelt: "hint: did you mean 'best'?",
    constant: 'carry("history"): no loop of constant() binds this variable',
    of_a_comprehension: 'carry("item"): ',
    builtin: 'carry("print"): builtin() has no variable of this name',
    of_a_caller: 'carry("lr"): of_a_caller.<locals>.set_up() has no variable of this name',
    of_another_loop: 'carry("lr"): of_another_loop.<locals>.warm_up() does not drive the loop',
    within_the_loop: 'carry("lr") inside the loop: expected it before',
    in_a_body: 'carry("total"): in_a_body.<locals>.body() does not drive the loop',
    twice: "a variable of twice() is carried under this name",
    global_within_the_loop: 'carry("counted") inside the loop: expected it before',
}


@pytest.mark.parametrize("loop", MISUSES, ids=lambda loop: loop.__name__)
def test_a_name_that_cannot_be_carried_is_refused_with_the_reason(loop: Loop, run: Path) -> None:
    assert MISUSES[loop] in refused(loop, run)


def test_a_call_in_another_thread_is_refused(run: Path) -> None:
    def loop(trainer: Trainer, seen: list[Any], ends: Callable[[], None]) -> None:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(misspelt, trainer, seen, ends).result()

    assert "was called in another one" in refused(loop, run)


def test_a_loop_in_another_thread_is_refused(run: Path) -> None:
    def loop(trainer: Trainer, seen: list[Any], ends: Callable[[], None]) -> None:
        trainer.carry("last")
        for last in [0, 1]:
            seen.append(last)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(list, trainer.steps(2)).result()

    assert "does not drive the loop" in refused(loop, run)


def test_an_object_that_was_passed_is_refused(run: Path) -> None:
    def loop(trainer: Trainer, seen: list[Any], ends: Callable[[], None]) -> None:
        trainer.carry("x")
        for _ in trainer.steps(2):
            x = seen  # noqa: F841

    assert "it was passed to the Trainer as seen" in refused(loop, run, StateError)


def test_a_hidden_state_with_its_graph_is_refused_after_the_first_step(run: Path) -> None:
    def loop(trainer: Trainer, seen: list[Any], ends: Callable[[], None]) -> None:
        weight, hidden = torch.ones(1, requires_grad=True), torch.zeros(1)
        trainer.carry("hidden")
        for step in trainer.steps(9):
            seen.append(step)
            hidden = hidden.detach() + weight

    assert "hidden: a tensor that is part of an autograd graph" in refused(loop, run, StateError)
    assert [checkpoint.step for checkpoint in Run(str(run)).checkpoints()] == [0]


def test_a_graph_that_a_later_step_needs_is_refused(run: Path) -> None:
    def loop(trainer: Trainer, seen: list[Any], ends: Callable[[], None]) -> None:
        cell, hidden = nn.GRUCell(2, 2), torch.zeros(1, 2)
        trainer.carry("hidden")
        for step in trainer.steps(9):
            seen.append(step)
            hidden = cell(torch.ones(1, 2), hidden)
            hidden.sum().backward(retain_graph=True)

    assert "hidden: a tensor that is part of an autograd graph" in refused(loop, run, StateError)


def objects() -> dict[str, tuple[object, str]]:
    """Values that are refused, and what the error says."""
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pass_it = "pass it to the Trainer, which restores it in place: Trainer(..., x=x)"
    return {
        "module": (model, pass_it),
        "optimizer": (optimizer, pass_it),
        "scheduler": (torch.optim.lr_scheduler.ConstantLR(optimizer), pass_it),
        "torch_generator": (torch.Generator(), pass_it),
        "numpy_generator": (numpy.random.default_rng(), pass_it),
        "graph": (model(torch.ones(2)), "x: a tensor that is part of an autograd graph cannot be stored"),
        "graph_inside": ({"h": [model(torch.ones(2))]}, "x.h.0: a tensor that is part of an autograd graph"),
        "parameter": (model.weight, "x: a tensor with requires_grad cannot be carried"),
        "trained": ([torch.ones(1, requires_grad=True)], "x.0: a tensor with requires_grad cannot be carried"),
        "state_dict": (optimizer.state_dict(), "x: this is the state_dict() of an optimizer"),
        "function": (len, "x: builtin_function_or_method cannot be stored"),
        "module_inside": ({"net": model}, "take it out of x"),
    }


@pytest.mark.parametrize("name", objects())
@pytest.mark.parametrize("bound", ["before", "between", "inside"])
def test_a_value_that_cannot_be_carried_is_refused_as_soon_as_it_is_there(name: str, bound: str, run: Path) -> None:
    held, words = objects()[name]

    def loop(trainer: Trainer, seen: list[Any], ends: Callable[[], None]) -> None:
        if bound == "before":
            x = held
        trainer.carry("x")
        if bound == "between":
            x = held
        for step in trainer.steps(9):
            seen.append(step)
            x = held  # noqa: F841

    assert words in refused(loop, run, StateError)
    assert {checkpoint.step for checkpoint in Run(str(run)).checkpoints()} == ({0} if bound == "inside" else set())
