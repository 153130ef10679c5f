"""Variables of a loop that are carried: each way to write a loop is left in some steps, and goes on exactly."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from resumable import Run, Trainer
from tests.loop.carried.launches import Loop, launch, loader
from tests.tiny import Crash

# -- the ways to write a loop -----------------------------------------------------------------------------------------


def annealing(trainer: Trainer, seen: list[Any], ends: Callable[[], None]) -> None:
    lr, best = 1.0, None
    trainer.carry("lr", "best", "hidden")
    for _ in trainer.epochs(3):
        lr *= 0.5
        hidden = torch.zeros(2)
        for x in trainer.batches(loader()):
            hidden = hidden * 0.5 + x * lr
            seen.append((lr, best, hidden.tolist()))
            ends()
        best = hidden.sum().item() if best is None else min(best, hidden.sum().item())


def prefetching(trainer: Trainer, seen: list[Any], ends: Callable[[], None]) -> None:
    x, y = torch.rand(2), {"next": [torch.rand(1), 0.5]}
    trainer.carry("x", "y", "recent")
    recent: deque[float] = deque(maxlen=2)
    for _ in trainer.steps(5):
        seen.append((x.tolist(), y["next"][0].item(), list(recent)))
        recent = deque([*recent, x[0].item()], maxlen=2)
        x, y = torch.rand(2), {"next": [torch.rand(1), 0.5]}
        ends()


def counting(trainer: Trainer, seen: list[Any], ends: Callable[[], None]) -> None:
    count, words = 0, ""
    trainer.carry("count")
    trainer.carry("words")  # called again, it adds
    trainer.carry("count")
    for _ in trainer.epochs(2):
        for index, x in trainer.enumerate(loader()):
            count, words = count + 1, f"{words} {count} {index}"
            seen.append((count, words, x.item()))
            ends()


def bare_passes(trainer: Trainer, seen: list[Any], ends: Callable[[], None]) -> None:
    total = 0.0
    trainer.carry("total")
    for _ in range(3):
        total *= 2
        for x in trainer.batches(loader()):
            total += x.item() + 1
            seen.append(total)
            ends()


def within_a_function(trainer: Trainer, seen: list[Any], ends: Callable[[], None]) -> None:
    trainer.carry("mean")

    def one_pass(start: float) -> float:
        total = start
        trainer.carry("total")
        for x in trainer.batches(loader()):
            total = total * 0.5 + x.item()
            seen.append((mean, total))
            ends()
        return total

    mean = 0.0
    for epoch in trainer.epochs(3):
        mean += one_pass(float(epoch))


def through_a_generator(trainer: Trainer, seen: list[Any], ends: Callable[[], None]) -> None:
    def feed() -> Iterator[tuple[int, Any]]:
        fed = 0
        trainer.carry("fed")
        for x in trainer.batches(loader()):
            fed += 2
            yield fed, x

    last = -1.0
    trainer.carry("last")
    for _ in trainer.epochs(2):
        for fed, x in feed():
            seen.append((fed, last, x.item()))
            last = x.item()
            ends()


def as_a_generator(trainer: Trainer, seen: list[Any], ends: Callable[[], None]) -> None:
    def training() -> Iterator[float]:
        total = 0.0
        trainer.carry("total")
        for _ in trainer.epochs(2):
            for x in trainer.batches(loader()):
                total += x.item() + 1
                yield total
                ends()

    for total in training():
        seen.append(total)


def with_a_cell(trainer: Trainer, seen: list[Any], ends: Callable[[], None]) -> None:
    count = 0

    def add() -> None:
        nonlocal count
        count += 1

    trainer.carry("count")
    for _ in trainer.steps(5):
        add()
        seen.append(count)
        ends()


def with_next(trainer: Trainer, seen: list[Any], ends: Callable[[], None]) -> None:
    total, step, turns = 0.0, -1, trainer.steps(5)
    trainer.carry("total")
    while (step := next(turns, -1)) >= 0:
        total = total / 2 + step
        seen.append(total)
        ends()


def of_a_class_body(trainer: Trainer, seen: list[Any], ends: Callable[[], None]) -> None:
    class Training:
        total = 0
        trainer.carry("total")
        for step in trainer.steps(5):
            total = total * 2 + step
            seen.append(total)
            ends()


SCRIPT = """
lr = 1.0
trainer.carry("lr", "noise", "seen_by_function")
def function():
    global seen_by_function
    seen_by_function = noise
seen_by_function = 0.0
for epoch in trainer.epochs(3):
    lr *= 0.5
    noise = torch.rand(()).item()
    for x in trainer.batches(loader()):
        seen.append((lr, noise, seen_by_function))
        noise += x.item()
        function()
        ends()
"""


def as_a_script(trainer: Trainer, seen: list[Any], ends: Callable[[], None]) -> None:
    exec(SCRIPT, {**globals(), "trainer": trainer, "seen": seen, "ends": ends})


def in_cells(trainer: Trainer, seen: list[Any], ends: Callable[[], None]) -> None:
    names: dict[str, Any] = {"trainer": trainer, "seen": seen, "ends": ends, "loader": loader}
    exec("lr = 1.0", names)
    exec("trainer.carry('lr')", names)
    exec("for _ in trainer.steps(5):\n    seen.append(lr)\n    lr *= 0.5\n    ends()", names)


LOOPS = [
    annealing,
    prefetching,
    counting,
    bare_passes,
    within_a_function,
    through_a_generator,
    as_a_generator,
    with_a_cell,
    with_next,
    of_a_class_body,
    as_a_script,
    in_cells,
]


@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.__name__)
def test_a_loop_that_is_left_in_any_step_goes_on_exactly(
    loop: Loop, run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = launch(run / "whole", loop)
    assert len(whole) >= 5
    for step in (0, 2, 3, 4):  # the first epoch has steps 0 to 2
        crashed = run / f"crashed-{step}"
        with pytest.raises(Crash):
            launch(crashed, loop, crash_at=step)
        caplog.clear()
        assert launch(crashed, loop) == whole, f"left in step {step}"
        assert [line.split()[0] for line in caplog.messages] == ["RESUME"]
        Run(str(crashed)).latest().verify()
